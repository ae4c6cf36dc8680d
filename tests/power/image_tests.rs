//! The rules of a crash, one by one.
use super::*;

fn disk(steps: &[Step]) -> Disk {
    let mut disk = Disk::default();
    for step in steps {
        disk.apply(step).unwrap();
    }
    disk
}

fn create(inode: u64, name: &str) -> Step {
    Step::Create {
        inode,
        name: name.into(),
    }
}

fn write(inode: u64, offset: u64, length: usize, byte: u8) -> Step {
    Step::Write {
        inode,
        offset,
        data: vec![byte; length].into(),
    }
}

fn bare(steps: &[Step]) -> Image {
    disk(steps).image(Crash::Bare, &mut Dice::new(1))
}

fn whole(steps: &[Step]) -> Image {
    disk(steps).image(Crash::Whole, &mut Dice::new(1))
}

/// Images of many seeds.
fn any(steps: &[Step], crash: Crash) -> Vec<Image> {
    let disk = disk(steps);
    (0..300)
        .map(|seed| disk.image(crash, &mut Dice::new(seed)))
        .collect()
}

#[test]
fn synced_content_stays_and_unsynced_goes() {
    let steps = [
        create(1, "a"),
        write(1, 0, 600, 1),
        Step::Sync { inode: 1 },
        write(1, 512, 1000, 2),
    ];
    assert_eq!(*bare(&steps)["a"], vec![1; 600]);
    assert_eq!(*whole(&steps)["a"], [vec![1; 512], vec![2; 1000]].concat());
}

#[test]
fn sync_of_a_file_keeps_its_creation_and_what_came_before() {
    let steps = [
        create(1, "a"),
        create(2, "b"),
        create(3, "c"),
        Step::Sync { inode: 2 },
    ];
    assert_eq!(bare(&steps).into_keys().collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_link_needs_the_directory() {
    let mut steps = vec![
        create(1, "part"),
        write(1, 0, 9, 7),
        Step::Sync { inode: 1 },
    ];
    steps.extend([
        Step::Link {
            inode: 1,
            name: "db".into(),
        },
        Step::Sync { inode: 1 },
    ]);
    assert_eq!(bare(&steps).into_keys().collect::<Vec<_>>(), ["part"]);
    steps.extend([
        Step::Unlink {
            name: "part".into(),
        },
        Step::SyncDirectory,
    ]);
    assert_eq!(
        bare(&steps).into_iter().collect::<Vec<_>>(),
        [("db".into(), Arc::new(vec![7; 9]))]
    );
}

#[test]
fn links_share_one_file() {
    let steps = [
        create(1, "part"),
        write(1, 0, 900, 1),
        Step::Link {
            inode: 1,
            name: "db".into(),
        },
    ];
    let image = disk(&steps).image(Crash::Names, &mut Dice::new(1));
    assert!(Arc::ptr_eq(&image["part"], &image["db"]));
}

#[test]
fn names_survive_as_a_prefix() {
    let steps = [
        create(1, "a"),
        Step::SyncDirectory,
        Step::Rename {
            name: "a".into(),
            to: "b".into(),
        },
        create(2, "a"),
        Step::Unlink { name: "b".into() },
    ];
    let seen: std::collections::BTreeSet<String> = any(&steps, Crash::Any)
        .iter()
        .map(|i| i.keys().cloned().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["a", "a b", "b"]);
}

#[test]
fn names_without_content_are_zero_length_files() {
    let steps = [
        create(1, "new"),
        write(1, 0, 5000, 1),
        Step::Rename {
            name: "new".into(),
            to: "db".into(),
        },
    ];
    let image = disk(&steps).image(Crash::Names, &mut Dice::new(1));
    assert_eq!(
        image.into_iter().collect::<Vec<_>>(),
        [("db".into(), Arc::default())]
    );
}

#[test]
fn a_later_write_survives_an_earlier_one() {
    let steps = [
        create(1, "a"),
        write(1, 0, 4096, 1),
        Step::Sync { inode: 1 },
        write(1, 0, 1024, 2),
        write(1, 2048, 1024, 3),
    ];
    let early = any(&steps, Crash::Every(Loss::Early));
    assert!(
        early
            .iter()
            .any(|i| i.get("a").is_some_and(|a| a[0] == 1 && a[2048] == 3))
    );
    let late = any(&steps, Crash::Every(Loss::Late));
    assert!(late.iter().all(|i| {
        i.get("a")
            .is_none_or(|a| a[2048..3072] == [1; 1024] || a[0] == 2)
    }));
}

#[test]
fn writes_tear_at_sectors() {
    let steps = [
        create(1, "a"),
        write(1, 0, 4096, 1),
        Step::Sync { inode: 1 },
        write(1, 100, 2000, 2),
    ];
    let mut torn = 0;
    for image in any(&steps, Crash::Every(Loss::Scattered)) {
        let a = &*image["a"];
        assert_eq!(a[..100], [1; 100]);
        let parts = [100..512, 512..1024, 1024..1536, 1536..2048, 2048..2100];
        let values: Vec<u8> = parts.iter().map(|p| a[p.start]).collect();
        parts
            .iter()
            .zip(&values)
            .for_each(|(p, v)| assert!(a[p.clone()].iter().all(|b| b == v)));
        torn += usize::from(values.contains(&1) && values.contains(&2));
    }
    assert!(torn > 20, "{torn}");
}

#[test]
fn a_sector_holds_the_writes_before_the_one_that_reached_it() {
    let steps = [
        create(1, "a"),
        Step::Sync { inode: 1 },
        write(1, 0, 24, 1),
        write(1, 24, 512, 2),
    ];
    for image in any(&steps, Crash::Every(Loss::Scattered)) {
        let a = &*image["a"];
        assert!(!(a.len() == 536 && a[100] == 2) || a[0] == 1);
    }
}

#[test]
fn lost_content_inside_the_size_reads_as_zeros() {
    let steps = [
        create(1, "a"),
        Step::Sync { inode: 1 },
        write(1, 0, 1024, 1),
        write(1, 1024, 1024, 2),
    ];
    let holes = any(&steps, Crash::Every(Loss::Early));
    assert!(
        holes
            .iter()
            .any(|i| *i["a"] == [vec![0; 1024], vec![2; 1024]].concat())
    );
}

#[test]
fn a_lost_truncation_brings_back_the_old_content() {
    let steps = [
        create(1, "a"),
        write(1, 0, 2048, 1),
        Step::Sync { inode: 1 },
        Step::Resize { inode: 1, size: 0 },
        write(1, 0, 512, 2),
    ];
    assert_eq!(*bare(&steps)["a"], vec![1; 2048]);
    assert_eq!(*whole(&steps)["a"], vec![2; 512]);
    for image in any(&steps, Crash::Every(Loss::Scattered)) {
        let a = &*image["a"];
        assert!(
            *a == vec![1; 2048] || a.is_empty() || *a == vec![0; 512] || *a == vec![2; 512],
            "{}",
            a.len()
        );
    }
}

#[test]
fn an_inode_number_may_be_used_again() {
    let steps = [
        create(1, "a"),
        write(1, 0, 10, 1),
        Step::Sync { inode: 1 },
        Step::Unlink { name: "a".into() },
        create(1, "a"),
        write(1, 0, 3, 2),
    ];
    assert_eq!(*bare(&steps)["a"], vec![1; 10]);
    assert_eq!(*whole(&steps)["a"], vec![2; 3]);
}

#[test]
fn a_file_unknown_to_the_trace_is_an_error() {
    assert!(Disk::default().apply(&Step::Sync { inode: 5 }).is_err());
}
