//! The tables of `docs/` name every setting and every topic configuration, in its class.

use std::path::Path;

use tidelog_core::settings::registry;
use tidelog_core::topic_config::{Class, definitions};

fn page(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn operations_lists_every_setting() {
    let page = page("OPERATIONS.md");
    for spec in registry().iter().filter(|spec| spec.name != "profile") {
        let cell = format!("| `{}` |", spec.name.replace('*', "NAME"));
        assert!(page.contains(&cell), "docs/OPERATIONS.md has no row {cell}");
    }
}

#[test]
fn protocol_lists_every_topic_config_in_its_class() {
    let page = page("PROTOCOL.md");
    let section = page
        .split("## Topic configs")
        .nth(1)
        .and_then(|rest| rest.split("\n## ").next())
        .unwrap();
    for definition in definitions() {
        let row_begins = match definition.class {
            Class::Effective => "| effective ",
            Class::Later => "| stored and shown; the effect comes with a later part",
            Class::WithoutEffect => "| stored and shown for tools",
            Class::Refused { .. } => "| refused ",
        };
        let row = section.lines().find(|line| line.starts_with(row_begins)).unwrap();
        let name = format!("`{}`", definition.name);
        assert!(
            row.contains(&name),
            "docs/PROTOCOL.md does not list {name} in the row {row_begins:?}"
        );
    }
}
