//! `corediscover kv`: get, put, delete, export, import.

use std::io::Read as _;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::connection::{ConnectionArgs, explain};
use super::{EXIT_FAILED, EXIT_FINE, Output, block_on};

/// HTTP's code for a missing key.
const NOT_FOUND: u16 = 404;

/// Arguments of `kv`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// Print the value of a key, or what is under a prefix.
    Get(Get),
    /// Write a key.
    Put(Put),
    /// Delete a key, or what is under a prefix.
    Delete(Delete),
    /// Print a tree as JSON.
    Export {
        #[command(flatten)]
        connection: ConnectionArgs,
        /// Only keys that start so.
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Write a tree that was exported: JSON, `@file`, or `-` for standard input.
    Import {
        #[command(flatten)]
        connection: ConnectionArgs,
        /// Written before each key.
        #[arg(long, default_value = "")]
        prefix: String,
        /// JSON, `@file` or `-`.
        data: String,
    },
}

#[derive(clap::Args)]
struct Get {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Only the names of the keys.
    #[arg(long)]
    keys: bool,
    /// Everything under the prefix.
    #[arg(long)]
    recurse: bool,
    /// All that is known about the key.
    #[arg(long)]
    detailed: bool,
    /// Print values in base64.
    #[arg(long)]
    base64: bool,
    /// Where -keys cuts.
    #[arg(long, default_value = "/")]
    separator: String,
    /// The key or prefix.
    #[arg(default_value = "")]
    key: String,
}

#[derive(clap::Args)]
struct Put {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Only if -modify-index is the key's.
    #[arg(long)]
    cas: bool,
    /// For -cas; 0 means that the key must not be there.
    #[arg(long)]
    modify_index: Option<u64>,
    /// Free number.
    #[arg(long)]
    flags: Option<u64>,
    /// The value is base64.
    #[arg(long)]
    base64: bool,
    /// The key.
    key: String,
    /// The value, `@file`, or `-` for standard input.
    #[arg(default_value = "")]
    value: String,
}

#[derive(clap::Args)]
struct Delete {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Everything under the prefix.
    #[arg(long)]
    recurse: bool,
    /// Only if -modify-index is the key's.
    #[arg(long)]
    cas: bool,
    /// For -cas.
    #[arg(long)]
    modify_index: Option<u64>,
    /// The key or prefix.
    #[arg(default_value = "")]
    key: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    lock_index: u64,
    key: String,
    flags: u64,
    value: Option<String>,
    #[serde(default)]
    session: Option<String>,
    create_index: u64,
    modify_index: u64,
}

#[derive(Serialize, Deserialize)]
struct Exported {
    key: String,
    flags: u64,
    value: String,
}

/// Runs the command.
pub(crate) fn run(args: Args, output: &mut Output) -> anyhow::Result<u8> {
    match args.what {
        What::Get(get) => run_get(&get, output),
        What::Put(put) => run_put(&put, output),
        What::Delete(delete) => run_delete(&delete, output),
        What::Export { connection, prefix } => export(&connection, &prefix, output),
        What::Import { connection, prefix, data } => import(&connection, &prefix, &data, output),
    }
}

fn key_of(key: &str) -> &str {
    key.strip_prefix('/').unwrap_or(key)
}

fn run_get(get: &Get, output: &mut Output) -> anyhow::Result<u8> {
    let key = key_of(&get.key);
    if key.is_empty() && !get.keys && !get.recurse {
        bail!("Missing KEY argument");
    }
    let mut query = get.connection.query();
    if get.keys {
        query.extend([("keys", ""), ("separator", get.separator.as_str())]);
    } else if get.recurse {
        query.push(("recurse", ""));
    }
    let client = get.connection.client()?;
    let reply = explain(block_on(async { Ok(client.kv_get(key, &query).await) })?, "Error querying the key")?;
    if reply.status == NOT_FOUND {
        if get.keys || get.recurse {
            return Ok(EXIT_FINE);
        }
        output.note(&format!("Error! No key exists at: {key}"));
        return Ok(EXIT_FAILED);
    }
    let reply = explain(reply.accepted(), "Error querying the key")?;
    if get.keys {
        let keys: Vec<String> =
            serde_json::from_slice(&reply.body).context("the agent's keys are not understood")?;
        output.data(&keys.iter().map(|key| format!("{key}\n")).collect::<String>())?;
        return Ok(EXIT_FINE);
    }
    let entries: Vec<Entry> =
        serde_json::from_slice(&reply.body).context("the agent's keys are not understood")?;
    for (number, entry) in entries.iter().enumerate() {
        if get.detailed {
            if number > 0 {
                output.data("\n")?;
            }
            output.bytes(&detailed(entry, get.base64)?)?;
        } else if get.recurse {
            output
                .bytes(&[format!("{}:", entry.key).as_bytes(), &shown(entry, get.base64)?, b"\n"].concat())?;
        } else {
            output.bytes(&[&shown(entry, get.base64)?[..], b"\n"].concat())?;
        }
    }
    Ok(EXIT_FINE)
}

fn shown(entry: &Entry, as_base64: bool) -> anyhow::Result<Vec<u8>> {
    let text = entry.value.as_deref().unwrap_or_default();
    if as_base64 {
        return Ok(text.as_bytes().to_vec());
    }
    BASE64.decode(text).with_context(|| format!("the value of {} is not base64", entry.key))
}

fn detailed(entry: &Entry, as_base64: bool) -> anyhow::Result<Vec<u8>> {
    let session = entry.session.as_deref().unwrap_or("-");
    let head = format!(
        "CreateIndex      {}\nFlags            {}\nKey              {}\nLockIndex        {}\nModifyIndex      {}\n\
         Session          {session}\nValue            ",
        entry.create_index, entry.flags, entry.key, entry.lock_index, entry.modify_index
    );
    Ok([head.as_bytes(), &shown(entry, as_base64)?, b"\n"].concat())
}

fn run_put(put: &Put, output: &mut Output) -> anyhow::Result<u8> {
    let key = key_of(&put.key);
    if key.is_empty() {
        bail!("Error! Missing KEY argument");
    }
    let mut value = argument(&put.value)?;
    if put.base64 {
        value = BASE64.decode(&value).context("Error! Cannot base 64 decode data")?;
    }
    let index = cas_index(put.cas, put.modify_index)?;
    let flags = put.flags.map(|flags| flags.to_string());
    let mut query = put.connection.query();
    query.extend(index.as_deref().map(|index| ("cas", index)));
    query.extend(flags.as_deref().map(|flags| ("flags", flags)));
    let client = put.connection.client()?;
    let written = explain(
        block_on(async { Ok(client.kv_put(key, value, &query).await) })?,
        "Error! Failed writing data",
    )?;
    if !written {
        output.note(&format!("Error! Did not write to {key}: CAS failed"));
        return Ok(EXIT_FAILED);
    }
    output.data(&format!("Success! Data written to: {key}\n"))?;
    Ok(EXIT_FINE)
}

fn run_delete(delete: &Delete, output: &mut Output) -> anyhow::Result<u8> {
    let key = key_of(&delete.key);
    if key.is_empty() && !delete.recurse {
        bail!("Error! Missing KEY argument");
    }
    if delete.recurse && delete.cas {
        bail!("Cannot specify both -cas and -recurse!");
    }
    let index = cas_index(delete.cas, delete.modify_index)?;
    let mut query = delete.connection.query();
    query.extend(index.as_deref().map(|index| ("cas", index)));
    if delete.recurse {
        query.push(("recurse", ""));
    }
    let client = delete.connection.client()?;
    let deleted =
        explain(block_on(async { Ok(client.kv_delete(key, &query).await) })?, "Error! Did not delete key")?;
    if !deleted {
        output.note(&format!("Error! Did not delete key {key}: CAS failed"));
        return Ok(EXIT_FAILED);
    }
    if delete.recurse {
        output.data(&format!("Success! Deleted keys with prefix: {key}\n"))?;
    } else {
        output.data(&format!("Success! Deleted key: {key}\n"))?;
    }
    Ok(EXIT_FINE)
}

fn cas_index(cas: bool, index: Option<u64>) -> anyhow::Result<Option<String>> {
    match (cas, index) {
        (true, Some(index)) => Ok(Some(index.to_string())),
        (true, None) => bail!("Must specify -modify-index with -cas!"),
        (false, Some(_)) => bail!("Cannot specify -modify-index without -cas!"),
        (false, None) => Ok(None),
    }
}

/// A value given on the command line, as `@file`, or as `-` on standard input.
fn argument(text: &str) -> anyhow::Result<Vec<u8>> {
    if let Some(path) = text.strip_prefix('@') {
        return std::fs::read(path).with_context(|| format!("Error! Failed to read file {path}"));
    }
    if text == "-" {
        let mut value = Vec::new();
        std::io::stdin().read_to_end(&mut value).context("Error! Failed to read stdin")?;
        return Ok(value);
    }
    Ok(text.as_bytes().to_vec())
}

fn export(connection: &ConnectionArgs, prefix: &str, output: &mut Output) -> anyhow::Result<u8> {
    let mut query = connection.query();
    query.push(("recurse", ""));
    let client = connection.client()?;
    let reply = explain(
        block_on(async { Ok(client.kv_get(key_of(prefix), &query).await) })?,
        "Error! Failed reading keys",
    )?;
    let entries: Vec<Entry> = if reply.status == NOT_FOUND {
        Vec::new()
    } else {
        let reply = explain(reply.accepted(), "Error! Failed reading keys")?;
        serde_json::from_slice(&reply.body).context("the agent's keys are not understood")?
    };
    let exported: Vec<Exported> = entries
        .into_iter()
        .map(|entry| Exported { key: entry.key, flags: entry.flags, value: entry.value.unwrap_or_default() })
        .collect();
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    exported.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))?;
    bytes.push(b'\n');
    output.bytes(&bytes)?;
    Ok(EXIT_FINE)
}

fn import(connection: &ConnectionArgs, prefix: &str, data: &str, output: &mut Output) -> anyhow::Result<u8> {
    let bytes = argument(data)?;
    let entries: Vec<Exported> = serde_json::from_slice(&bytes).context("Error! Cannot unmarshal data")?;
    // All values are looked at before the first is written.
    let values = entries
        .iter()
        .map(|entry| {
            BASE64.decode(&entry.value).with_context(|| format!("the value of {} is not base64", entry.key))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let client = connection.client()?;
    for (entry, value) in entries.iter().zip(values) {
        let key = format!("{prefix}{}", entry.key);
        let flags = entry.flags.to_string();
        let mut query = connection.query();
        query.push(("flags", &flags));
        explain(
            block_on(async { Ok(client.kv_put(&key, value, &query).await) })?,
            "Error! Failed writing data",
        )?;
        output.data(&format!("Imported: {key}\n"))?;
    }
    Ok(EXIT_FINE)
}
