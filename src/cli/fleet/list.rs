//! `fleet list-machines`, `list-units`, `list-unit-files`: the tables of fleetctl.

use super::Fleet;
use super::machines::MachineArgs;
use crate::cli::{Output, Usage};
use crate::fleet::Machine;
use crate::model::fleet::requirements::Requirements;
use crate::model::fleet::survey::{Desired, UnitRecord};
use crate::model::fleet::tables::{self, MachineRow, NoColumn, UnitFileRow, UnitRow, View};

/// Arguments of the lists.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Ids and hashes in full.
    #[arg(long, short = 'l')]
    full: bool,
    /// No line with the titles.
    #[arg(long)]
    no_legend: bool,
    /// These columns.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    fields: Vec<String>,
    /// Print JSON.
    #[arg(long, conflicts_with_all = ["full", "no_legend", "fields"])]
    json: bool,
}

impl Args {
    fn print<Row: serde::Serialize>(
        self,
        rows: &[Row],
        table: fn(&[Row], &View) -> Result<String, NoColumn>,
        output: &mut Output,
    ) -> anyhow::Result<()> {
        if self.json {
            return output.data(&(serde_json::to_string_pretty(rows)? + "\n"));
        }
        let view = View { full: self.full, no_legend: self.no_legend, fields: self.fields };
        let table = table(rows, &view).map_err(anyhow::Error::from);
        output.data(&table.map_err(|error| error.context(Usage("--fields is not understood")))?)
    }
}

/// Runs `list-machines`.
pub(super) fn machines(machines: &MachineArgs, args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let fleet = Fleet::reach(machines, output)?;
    let row = |machine: &Machine| MachineRow {
        place: machine.place(),
        hostname: machine.survey.hostname.clone(),
        metadata: machine.target.metadata.clone(),
    };
    let mut rows: Vec<MachineRow> = fleet.machines.iter().map(row).collect();
    rows.sort_by(|one, other| (&one.place.id, &one.place.name).cmp(&(&other.place.id, &other.place.name)));
    args.print(&rows, tables::machines, output)?;
    Ok(fleet.code())
}

/// All units with their machines, in the order of their names.
fn all(fleet: &Fleet) -> Vec<(&UnitRecord, &Machine)> {
    let mut units: Vec<(&UnitRecord, &Machine)> = fleet
        .machines
        .iter()
        .flat_map(|machine| machine.survey.units.iter().map(move |unit| (unit, machine)))
        .collect();
    units.sort_by_key(|(unit, machine)| (unit.name.clone(), machine.survey.machine_id.clone()));
    units
}

/// Runs `list-units`.
pub(super) fn units(machines: &MachineArgs, args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let fleet = Fleet::reach(machines, output)?;
    let rows: Vec<UnitRow> = all(&fleet)
        .into_iter()
        .filter(|(unit, _)| unit.desired > Desired::Inactive)
        .map(|(unit, machine)| UnitRow {
            unit: unit.name.clone(),
            machine: machine.place(),
            load: unit.load.clone(),
            active: unit.active.clone(),
            sub: unit.sub.clone(),
            hash: unit.hash(),
        })
        .collect();
    args.print(&rows, tables::units, output)?;
    Ok(fleet.code())
}

/// Runs `list-unit-files`.
pub(super) fn unit_files(machines: &MachineArgs, args: Args, output: &mut Output) -> anyhow::Result<u8> {
    let fleet = Fleet::reach(machines, output)?;
    let mut rows: Vec<UnitFileRow> = Vec::new();
    for (unit, machine) in all(&fleet) {
        let global = Requirements::read(&unit.name, &unit.text).is_ok_and(|asks| asks.global);
        // A global unit has one line, however many machines have it.
        if global && rows.last().is_some_and(|last| last.unit == unit.name && last.hash == unit.hash()) {
            continue;
        }
        rows.push(UnitFileRow {
            unit: unit.name.clone(),
            hash: unit.hash(),
            dstate: unit.desired.word().to_owned(),
            state: (!global).then(|| unit.state().to_owned()),
            target: (!global && unit.desired > Desired::Inactive).then(|| machine.place()),
            global,
        });
    }
    args.print(&rows, tables::unit_files, output)?;
    Ok(fleet.code())
}
