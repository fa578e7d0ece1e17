//! Who opens whose tickets, and for how long: with clocks of the tests' own.

use super::*;

fn tickets(table: &Arc<Table>, purpose: &[u8]) -> Arc<Tickets> {
    Tickets::new(Arc::clone(table), purpose.to_vec())
}

#[test]
fn a_ticket_is_opened_by_whoever_has_the_table_for_the_same_purpose_and_for_two_spans() {
    let fd = crate::table::create().unwrap();
    let (old, new) = (Arc::new(Table::default()), Arc::new(Table::default()));
    old.take(fd.try_clone().unwrap()).unwrap();
    let sealed = tickets(&old, b"a").seal(100, b"session").unwrap();
    assert!(!sealed.windows(7).any(|part| part == b"session"));
    assert_ne!(tickets(&old, b"a").seal(100, b"session").unwrap(), sealed);
    // The edge dies; the next one is handed the table.
    drop(old);
    new.take(fd).unwrap();
    let next = tickets(&new, b"a");
    assert_eq!(next.open(100, &sealed).as_deref(), Some(&b"session"[..]));
    assert_eq!(tickets(&new, b"b").open(100, &sealed), None, "another purpose");
    assert_eq!(next.open(101, &sealed).as_deref(), Some(&b"session"[..]));
    assert_eq!(next.open(102, &sealed), None, "too late");
    assert_eq!(tickets(&new, b"a").open(100, &sealed), None, "its secret is gone");
    let alone = Arc::new(Table::default());
    let other = tickets(&alone, b"a");
    assert_eq!(other.open(100, &sealed), None, "another table");
    let own = other.seal(100, b"").unwrap();
    assert_eq!(other.open(100, &own).as_deref(), Some(&b""[..]));
}

#[test]
fn edges_whose_clocks_differ_open_each_others_tickets_and_none_opens_older_ones() {
    let fd = crate::table::create().unwrap();
    let edge = || {
        let table = Arc::new(Table::default());
        table.take(fd.try_clone().unwrap()).unwrap();
        tickets(&table, b"a")
    };
    let (one, other, third) = (edge(), edge(), edge());
    let opens = |edge: &Tickets, span, sealed: &[u8]| {
        edge.open(span, sealed).as_deref() == Some(&b"session"[..])
    };
    let [oldest, former] = [99, 100].map(|span| one.seal(span, b"session").unwrap());
    assert!(opens(&other, 100, &oldest) && opens(&other, 100, &former));
    // One passes into the next span, the other one is behind.
    let newest = one.seal(101, b"session").unwrap();
    let late = other.seal(100, b"session").unwrap();
    for (span, edge) in [(100, &other), (101, &one), (101, &other), (101, &third)] {
        for sealed in [&former, &late, &newest] {
            assert!(opens(edge, span, sealed), "{span}");
        }
        assert_eq!(opens(edge, span, &oldest), span == 100, "{span}");
    }
    // Nobody was there in a span, and then one is who comes late to it.
    let far = one.seal(103, b"session").unwrap();
    let late = other.seal(102, b"session").unwrap();
    for sealed in [&far, &late] {
        assert!(opens(&one, 103, sealed) && opens(&other, 102, sealed));
    }
    assert!(![&former, &newest].iter().any(|sealed| opens(&one, 103, sealed)));
}

#[test]
fn keys_go_where_nobody_shakes_hands_any_more() {
    let table = Arc::new(Table::default());
    table.forget(102);
    let tickets = tickets(&table, b"a");
    let sealed = tickets.seal(100, b"session").unwrap();
    for span in [100, 101] {
        tickets.forget(span);
        table.forget(span);
        assert_eq!(tickets.keys.read().unwrap().is_some(), span == 100);
    }
    assert!(tickets.open(101, &sealed).is_some());
    tickets.forget(102);
    table.forget(102);
    assert!(tickets.keys.read().unwrap().is_none());
    assert_eq!(table.secrets().unwrap().read(100), None);
}

#[test]
fn a_ticket_that_was_changed_is_none() {
    let table = Arc::new(Table::default());
    let tickets = tickets(&table, b"a");
    let sealed = tickets.seal(100, b"session").unwrap();
    for at in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        assert_eq!(tickets.open(100, &changed), None, "byte {at}");
        assert_eq!(tickets.open(100, &sealed[..at]), None, "cut off at {at}");
    }
    assert!(tickets.open(100, &sealed).is_some());
}
