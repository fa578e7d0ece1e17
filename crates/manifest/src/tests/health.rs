//! `to = "@health"` and `[health]`: what is read, and what is refused without showing a key.

use super::*;
use crate::site::HealthKey;

fn text(health: &str) -> String {
    format!(
        "{GOOD}[[route]]\npaths = [\"/*\"]\nto = \"web\"\n[[route]]\npaths = [\"/up\"]\nto = \"@health\"\n{health}"
    )
}

#[test]
fn a_route_leads_to_the_sites_health_and_a_secret_is_its_key() {
    let site = try_parse(&text("")).unwrap();
    assert_eq!((&site.routes[0].action, &site.health), (&RouteAction::Health, &None));
    let key =
        "[health]\nkey = { header = \"X-Health-Api-Key\", value = \"secret:HEALTH_API_KEY\" }\n";
    let site = try_parse(&text(key)).unwrap();
    let expected =
        HealthKey { header: "x-health-api-key".to_owned(), secret: "HEALTH_API_KEY".to_owned() };
    assert_eq!(site.health, Some(expected));
    // As earlier versions wrote it.
    let mut kept = serde_json::to_value(&site).unwrap();
    kept.as_object_mut().unwrap().remove("health");
    assert_eq!(serde_json::from_value::<Site>(kept).unwrap().health, None);
}

#[test]
fn a_key_that_could_not_work_or_stands_in_the_file_is_refused() {
    for (key, expected) in [
        ("{ header = \"x-key\" }", "a key needs `header` and `value`"),
        ("{ value = \"secret:KEY\" }", "a key needs `header` and `value`"),
        (
            "{ header = \"x-key\", value = \"hunter2\" }",
            "keys do not belong into the manifest: this must be `secret:NAME`",
        ),
        (
            "{ header = \"x-key\", value = \"secret:no\" }",
            "keys do not belong into the manifest: this must be `secret:NAME`",
        ),
        ("{ header = \"x key\", value = \"secret:KEY\" }", "is no header name"),
        ("{ header = \"Cookie\", value = \"secret:KEY\" }", "is sent for other reasons, too"),
        ("{ header = \"connection\", value = \"secret:KEY\" }", "belongs to the edge"),
        ("{ header = \"x-key\", value = \"secret:KEY\", query = \"key\" }", "unknown key"),
    ] {
        let text = text(&format!("[health]\nkey = {key}\n"));
        let found = messages(&text);
        assert!(found.len() == 1 && found[0].contains(expected), "{key}: {found:?}");
        let shown = try_parse(&text).unwrap_err().render(false);
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn a_target_of_the_edge_that_there_is_not_is_no_service_either() {
    let found = |to: &str| {
        let report = try_parse(&format!("{GOOD}[[route]]\npaths = [\"/*\"]\nto = \"{to}\"\n"));
        report.unwrap_err().render(false)
    };
    assert!(found("@healht").contains("did you mean `@health`?"), "{}", found("@healht"));
    assert!(found("@x").contains("there are: @health, @client-events"), "{}", found("@x"));
    assert!(found("@metrics").contains("planned: `@metrics` is not built yet"));
}
