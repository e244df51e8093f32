//! The tables of fleetctl 1.0: their columns, their legends, and the tabs between them.

use serde::Serialize;

use super::machines::Metadata;

/// Bytes of a machine-id, and digits of a hash, that are shown unless everything is wanted.
const ID_SHOWN: usize = 8;
const HASH_SHOWN: usize = 7;
/// Distance of tab stops: fleetctl fills columns with tabs.
const TAB_WIDTH: usize = 8;
/// What stands where there is nothing.
const NOTHING: &str = "-";

/// A machine on which something is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Place {
    /// What the user calls it.
    pub name: String,
    /// Its machine-id.
    pub id: String,
    /// Its address.
    pub ip: String,
}

/// A row of `list-machines`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MachineRow {
    /// Which machine.
    #[serde(flatten)]
    pub place: Place,
    /// What it calls itself.
    pub hostname: String,
    /// Its metadata.
    pub metadata: Metadata,
}

/// A row of `list-units`: a unit that systemd has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnitRow {
    /// Its name.
    pub unit: String,
    /// Where it is.
    pub machine: Place,
    /// systemd's `LoadState`.
    pub load: String,
    /// systemd's `ActiveState`.
    pub active: String,
    /// systemd's `SubState`.
    pub sub: String,
    /// SHA-1 of what the file says.
    pub hash: String,
}

/// A row of `list-unit-files`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnitFileRow {
    /// Its name.
    pub unit: String,
    /// SHA-1 of what the file says.
    pub hash: String,
    /// What it is to be: `inactive`, `loaded`, `launched`.
    pub dstate: String,
    /// What it is; nothing for a global unit.
    pub state: Option<String>,
    /// Where; nothing for a unit that is only submitted.
    pub target: Option<Place>,
    /// Whether it is on every machine.
    pub global: bool,
}

/// How much is shown.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Ids and hashes in full.
    pub full: bool,
    /// Without the line of titles.
    pub no_legend: bool,
    /// These columns instead of the usual ones.
    pub fields: Vec<String>,
}

/// A column that the table does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no column `{field}`: choose from {known}")]
pub struct NoColumn {
    field: String,
    known: String,
}

/// One column: its name, and what it shows of a row.
type Column<Row> = (&'static str, fn(&Row, &View) -> String);

/// The table of `list-machines`.
///
/// # Errors
/// For a column that is not there.
pub fn machines(rows: &[MachineRow], view: &View) -> Result<String, NoColumn> {
    let columns: [Column<MachineRow>; 4] = [
        ("machine", |row, view| short_id(&row.place.id, view)),
        ("ip", |row, _| text(&row.place.ip)),
        ("metadata", |row, _| {
            let pairs: Vec<String> =
                row.metadata.iter().map(|(key, value)| format!("{key}={value}")).collect();
            text(&pairs.join(","))
        }),
        ("hostname", |row, _| text(&row.hostname)),
    ];
    table(rows, &columns, 3, view)
}

/// The table of `list-units`.
///
/// # Errors
/// For a column that is not there.
pub fn units(rows: &[UnitRow], view: &View) -> Result<String, NoColumn> {
    let columns: [Column<UnitRow>; 6] = [
        ("unit", |row, _| row.unit.clone()),
        ("machine", |row, view| place(&row.machine, view)),
        ("active", |row, _| text(&row.active)),
        ("sub", |row, _| text(&row.sub)),
        ("load", |row, _| text(&row.load)),
        ("hash", |row, view| short_hash(&row.hash, view)),
    ];
    table(rows, &columns, 4, view)
}

/// The table of `list-unit-files`.
///
/// # Errors
/// For a column that is not there.
pub fn unit_files(rows: &[UnitFileRow], view: &View) -> Result<String, NoColumn> {
    let columns: [Column<UnitFileRow>; 6] = [
        ("unit", |row, _| row.unit.clone()),
        ("hash", |row, view| short_hash(&row.hash, view)),
        ("dstate", |row, _| row.dstate.clone()),
        ("state", |row, _| text(row.state.as_deref().unwrap_or_default())),
        ("target", |row, view| match &row.target {
            _ if row.global => "global".to_owned(),
            Some(target) => place(target, view),
            None => NOTHING.to_owned(),
        }),
        ("global", |row, _| row.global.to_string()),
    ];
    table(rows, &columns, 5, view)
}

/// `148a18ff.../10.10.1.1`, as fleetctl names a machine in sentences and tables.
pub fn place(place: &Place, view: &View) -> String {
    format!("{}/{}", short_id(&place.id, view), place.ip)
}

fn short_id(id: &str, view: &View) -> String {
    match id.get(..ID_SHOWN) {
        Some(short) if !view.full => format!("{short}..."),
        _ => text(id),
    }
}

fn short_hash(hash: &str, view: &View) -> String {
    text(if view.full { hash } else { hash.get(..HASH_SHOWN).unwrap_or(hash) })
}

fn text(text: &str) -> String {
    if text.is_empty() { NOTHING.to_owned() } else { text.to_owned() }
}

/// `usual`: how many of the columns are shown when none are named.
fn table<Row>(rows: &[Row], columns: &[Column<Row>], usual: usize, view: &View) -> Result<String, NoColumn> {
    let chosen: Vec<&Column<Row>> = if view.fields.is_empty() {
        columns.iter().take(usual).collect()
    } else {
        let find = |field: &String| {
            columns.iter().find(|(name, _)| name == field).ok_or_else(|| NoColumn {
                field: field.clone(),
                known: columns.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
            })
        };
        view.fields.iter().map(find).collect::<Result<_, _>>()?
    };
    let legend = chosen.iter().map(|(name, _)| name.to_uppercase()).collect();
    let mut lines: Vec<Vec<String>> = if view.no_legend { Vec::new() } else { vec![legend] };
    lines.extend(rows.iter().map(|row| chosen.iter().map(|(_, show)| show(row, view)).collect()));
    Ok(with_tabs(&lines))
}

/// As Go's `tabwriter` with a padding of one tab: every column but the last is filled up to a tab stop.
fn with_tabs(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let length = |cell: &String| cell.chars().count();
    let widths: Vec<usize> = (0..columns)
        .map(|column| lines.iter().map(|line| length(&line[column])).max().unwrap_or(0) + 1)
        .map(|width| width.next_multiple_of(TAB_WIDTH))
        .collect();
    let mut text = String::new();
    for line in lines {
        for (column, cell) in line.iter().enumerate() {
            text.push_str(cell);
            if column + 1 < columns {
                let tabs = (widths[column] - length(cell)).div_ceil(TAB_WIDTH);
                text.extend(std::iter::repeat_n('\t', tabs));
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{MachineRow, Place, UnitFileRow, UnitRow, View, machines, unit_files, units};
    use crate::model::fleet::machines::{Metadata, parse_metadata};

    fn at(id: &str, ip: &str) -> Place {
        Place { name: ip.to_owned(), id: id.repeat(8), ip: ip.to_owned() }
    }

    fn unit(name: &str, active: &str, sub: &str) -> UnitRow {
        UnitRow {
            unit: name.to_owned(),
            machine: at("148a18ff", "10.10.1.1"),
            load: "loaded".to_owned(),
            active: active.to_owned(),
            sub: sub.to_owned(),
            hash: "0123456789".to_owned(),
        }
    }

    #[test]
    fn machines_are_listed_as_fleetctl_does() {
        let rows = [
            MachineRow {
                place: at("148a18ff", "10.10.1.1"),
                hostname: "a".into(),
                metadata: parse_metadata("role=web,disk=ssd").unwrap(),
            },
            MachineRow {
                place: at("491586a6", "10.10.1.100"),
                hostname: String::new(),
                metadata: Metadata::new(),
            },
        ];
        assert_eq!(
            machines(&rows, &View::default()).unwrap(),
            "MACHINE\t\tIP\t\tMETADATA\n148a18ff...\t10.10.1.1\tdisk=ssd,role=web\n491586a6...\t10.10.1.100\t-\n"
        );
        let view = View { full: true, no_legend: true, fields: vec!["machine".into(), "hostname".into()] };
        assert_eq!(machines(&rows[..1], &view).unwrap(), format!("{}\ta\n", "148a18ff".repeat(8)));
        let view = View { fields: vec!["size".into()], ..View::default() };
        assert_eq!(
            machines(&rows, &view).unwrap_err().to_string(),
            "there is no column `size`: choose from machine, ip, metadata, hostname"
        );
    }

    #[test]
    fn units_are_listed_as_fleetctl_does() {
        let rows = [unit("hello.service", "active", "running"), unit("subgun-http@1.service", "failed", "")];
        assert_eq!(
            units(&rows, &View::default()).unwrap(),
            "UNIT\t\t\tMACHINE\t\t\tACTIVE\tSUB\n\
             hello.service\t\t148a18ff.../10.10.1.1\tactive\trunning\n\
             subgun-http@1.service\t148a18ff.../10.10.1.1\tfailed\t-\n"
        );
        assert_eq!(units(&[], &View::default()).unwrap(), "UNIT\tMACHINE\tACTIVE\tSUB\n");
    }

    #[test]
    fn unit_files_are_listed_as_fleetctl_does() {
        let row = |unit: &str, state: Option<&str>, target, global| UnitFileRow {
            unit: unit.to_owned(),
            hash: "d4c61bf0123".to_owned(),
            dstate: "launched".to_owned(),
            state: state.map(str::to_owned),
            target,
            global,
        };
        let rows = [
            row("a.service", Some("launched"), Some(at("85c0c595", "172.17.8.102")), false),
            row("g.service", None, None, true),
            row("s.service", Some("inactive"), None, false),
        ];
        assert_eq!(
            unit_files(&rows, &View::default()).unwrap(),
            "UNIT\t\tHASH\tDSTATE\t\tSTATE\t\tTARGET\n\
             a.service\td4c61bf\tlaunched\tlaunched\t85c0c595.../172.17.8.102\n\
             g.service\td4c61bf\tlaunched\t-\t\tglobal\n\
             s.service\td4c61bf\tlaunched\tinactive\t-\n"
        );
    }
}
