//! Turns the words of an action into a [`List`]: everything is checked here, before any machine is looked at.

use regex::Regex;

use super::TemplateError;
use super::list::{Attribute, Filter, Key, List, Order, Origin, Print, Step};
use super::token::Token;
use crate::model::address::networks::{Network, is_of_rfc, known_rfcs};

/// Most brackets in brackets; one is what people write.
const DEPTH_MAX: usize = 8;
/// Flags that `include "flags"` knows.
const FLAGS: [&str; 12] = [
    "broadcast",
    "down",
    "forwardable",
    "global unicast",
    "interface-local multicast",
    "link-local multicast",
    "link-local unicast",
    "loopback",
    "multicast",
    "point-to-point",
    "unspecified",
    "up",
];

/// Reads the words of one action.
pub(super) fn list(tokens: &[Token]) -> Result<List, TemplateError> {
    let mut reader = Reader { tokens, at: 0 };
    let list = reader.pipeline(0)?;
    match reader.next() {
        None if list.print.is_some() => Ok(list),
        None => Err(TemplateError::NoText),
        Some(_) => Err(TemplateError::Syntax("a bracket `)` has no `(`".to_owned())),
    }
}

enum Argument {
    Text(String),
    Number(i64),
    List(List),
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<&Token> {
        let token = self.tokens.get(self.at)?;
        self.at += 1;
        Some(token)
    }

    /// `command | command | …`, up to the end or a closing bracket.
    fn pipeline(&mut self, depth: usize) -> Result<List, TemplateError> {
        if depth > DEPTH_MAX {
            return Err(TemplateError::Syntax(format!("more than {DEPTH_MAX} brackets in brackets")));
        }
        let mut list = self.command(None, depth)?;
        while self.tokens.get(self.at) == Some(&Token::Pipe) {
            self.at += 1;
            list = self.command(Some(list), depth)?;
        }
        Ok(list)
    }

    fn command(&mut self, input: Option<List>, depth: usize) -> Result<List, TemplateError> {
        let name = match self.next() {
            Some(Token::Name(name)) => name.clone(),
            Some(Token::Dot) if input.is_none() => return Ok(List::new(Origin::All)),
            Some(Token::Open) if input.is_none() => return self.closed(depth),
            None | Some(Token::Pipe | Token::Close) => {
                return Err(TemplateError::Syntax(
                    "there is nothing where a function is expected".to_owned(),
                ));
            }
            Some(token) => {
                return Err(TemplateError::Syntax(format!("{token:?} stands where a function is expected")));
            }
        };
        let mut arguments = Vec::new();
        while let Some(token) = self.tokens.get(self.at) {
            let argument = match token {
                Token::Pipe | Token::Close => break,
                Token::Text(text) => Argument::Text(text.clone()),
                Token::Number(number) => Argument::Number(*number),
                Token::Dot => Argument::List(List::new(Origin::All)),
                Token::Name(name) => Argument::List(call(name, Vec::new(), None)?),
                Token::Open => {
                    self.at += 1;
                    arguments.push(Argument::List(self.closed(depth)?));
                    continue;
                }
            };
            self.at += 1;
            arguments.push(argument);
        }
        call(&name, arguments, input)
    }

    /// A pipeline behind its opening bracket.
    fn closed(&mut self, depth: usize) -> Result<List, TemplateError> {
        let list = self.pipeline(depth + 1)?;
        match self.next() {
            Some(Token::Close) => Ok(list),
            _ => Err(TemplateError::Syntax("a bracket `(` is not closed".to_owned())),
        }
    }
}

/// Arguments of one call: they are taken from the front; the list comes last, or through the pipe.
struct Call {
    function: &'static str,
    arguments: std::vec::IntoIter<Argument>,
    input: Option<List>,
}

impl Call {
    fn fault(&self, reason: impl Into<String>) -> TemplateError {
        TemplateError::Argument { function: self.function, reason: reason.into() }
    }

    fn text(&mut self, what: &str) -> Result<String, TemplateError> {
        match self.arguments.next() {
            Some(Argument::Text(text)) => Ok(text),
            _ => Err(self.fault(format!("it takes {what}, in quotes"))),
        }
    }

    fn number(&mut self) -> Result<i64, TemplateError> {
        let number = match self.arguments.next() {
            Some(Argument::Number(number)) => Some(number),
            Some(Argument::Text(text)) => text.parse().ok(),
            _ => None,
        };
        number.ok_or_else(|| self.fault("it takes a number"))
    }

    /// The list that the function works on; it must be the last.
    fn list(mut self) -> Result<List, TemplateError> {
        let list = match (self.arguments.next(), self.input.take()) {
            (Some(Argument::List(list)), None) | (None, Some(list)) => list,
            (None, None) => return Err(self.fault("it works on interfaces: `GetAllInterfaces | …`")),
            _ => return Err(self.fault("it has too many arguments")),
        };
        if list.print.is_some() {
            return Err(self.fault("it works on interfaces, and gets text"));
        }
        if self.arguments.next().is_some() {
            return Err(self.fault("it has too many arguments"));
        }
        Ok(list)
    }

    /// Nothing is left.
    fn end(mut self, list: List) -> Result<List, TemplateError> {
        if self.arguments.next().is_some() || self.input.is_some() {
            return Err(self.fault("it has too many arguments"));
        }
        Ok(list)
    }
}

fn call(name: &str, arguments: Vec<Argument>, input: Option<List>) -> Result<List, TemplateError> {
    let known = |function| Call { function, arguments: arguments.into_iter(), input };
    let address = || Print::First(Attribute::Address);
    let all = || Print::Joined(Attribute::Address, " ".to_owned());
    let by_type_and_size = || Step::Sort(vec![(Key::Type, Order::Up), (Key::Size, Order::Up)]);
    match name {
        "GetAllInterfaces" => known("GetAllInterfaces").end(List::new(Origin::All)),
        "GetDefaultInterfaces" => known("GetDefaultInterfaces").end(List::new(Origin::Default)),
        "GetPrivateInterfaces" => known("GetPrivateInterfaces").end(List::routed(true)),
        "GetPublicInterfaces" => known("GetPublicInterfaces").end(List::routed(false)),
        "GetPrivateIP" => known("GetPrivateIP").end(List::routed(true).print(address())),
        "GetPublicIP" => known("GetPublicIP").end(List::routed(false).print(address())),
        "GetPrivateIPs" => known("GetPrivateIPs").end(
            List::new(Origin::All)
                .then(by_type_and_size())
                .then(Step::Keep(Filter::Special, true))
                .then(Step::Keep(Filter::Forwarded, true))
                .print(all()),
        ),
        "GetPublicIPs" => known("GetPublicIPs").end(
            List::new(Origin::All)
                .then(by_type_and_size())
                .then(Step::Keep(Filter::Special, false))
                .print(all()),
        ),
        "GetInterfaceIP" => {
            let mut call = known("GetInterfaceIP");
            let filter = pattern(&mut call, "the name of an interface")?;
            call.end(
                List::new(Origin::All)
                    .then(Step::Keep(Filter::Name(filter), true))
                    .then(Step::Keep(Filter::Forwarded, true))
                    .then(by_type_and_size())
                    .print(address()),
            )
        }
        "GetInterfaceIPs" => {
            let mut call = known("GetInterfaceIPs");
            let filter = pattern(&mut call, "the name of an interface")?;
            let list = List::new(Origin::All).then(Step::Keep(Filter::Name(filter), true));
            call.end(list.then(by_type_and_size()).print(all()))
        }
        "include" => keep(known("include"), true),
        "exclude" => keep(known("exclude"), false),
        "sort" => {
            let mut call = known("sort");
            let keys = sort_keys(&mut call)?;
            Ok(call.list()?.then(Step::Sort(keys)))
        }
        "unique" => {
            let mut call = known("unique");
            let attribute = match call.text("address or name")?.to_ascii_lowercase().as_str() {
                "address" => Attribute::Full,
                "name" => Attribute::Name,
                other => return Err(call.fault(format!("`{other}` is neither address nor name"))),
            };
            Ok(call.list()?.then(Step::Unique(attribute)))
        }
        "limit" => {
            let mut call = known("limit");
            let number = call.number()?;
            let count = usize::try_from(number).map_err(|_| call.fault(format!("{number} is no count")))?;
            Ok(call.list()?.then(Step::Limit(count)))
        }
        "offset" => {
            let mut call = known("offset");
            let offset = call.number()?;
            Ok(call.list()?.then(Step::Offset(offset)))
        }
        "attr" | "Attr" => {
            let mut call = known("attr");
            let attribute = attribute(&mut call)?;
            Ok(call.list()?.print(Print::First(attribute)))
        }
        "join" => {
            let mut call = known("join");
            let attribute = attribute(&mut call)?;
            let between = call.text("what stands between two")?;
            Ok(call.list()?.print(Print::Joined(attribute, between)))
        }
        other => Err(TemplateError::Unknown(other.to_owned())),
    }
}

fn pattern(call: &mut Call, what: &str) -> Result<Regex, TemplateError> {
    let text = call.text(what)?;
    Regex::new(&text).map_err(|_| call.fault(format!("`{text}` is no regular expression")))
}

fn keep(mut call: Call, wanted: bool) -> Result<List, TemplateError> {
    let selector = call.text("what to look at")?.to_ascii_lowercase();
    let filter = match selector.as_str() {
        "name" => Filter::Name(pattern(&mut call, "a regular expression")?),
        "address" => Filter::Address(pattern(&mut call, "a regular expression")?),
        "network" => {
            let text = call.text("networks")?;
            let networks = text.split('|').map(str::parse::<Network>).collect::<Result<_, _>>();
            Filter::Networks(networks.map_err(|error| call.fault(error.to_string()))?)
        }
        "flag" | "flags" => {
            let text = call.text("flags")?.to_ascii_lowercase();
            let flags: Vec<String> = text.split('|').map(str::to_owned).collect();
            if let Some(flag) = flags.iter().find(|flag| !FLAGS.contains(&flag.as_str())) {
                return Err(call.fault(format!("`{flag}` is no flag: there are {}", FLAGS.join(", "))));
            }
            Filter::Flags(flags)
        }
        "rfc" | "rfcs" => {
            let text = call.text("numbers of RFCs")?;
            let is_known = |number: &u32| is_of_rfc(*number, std::net::Ipv4Addr::LOCALHOST.into()).is_some();
            let numbers = text.split('|').map(|number| number.parse().ok().filter(is_known).ok_or(number));
            let numbers = numbers.collect::<Result<_, _>>().map_err(|number| {
                let known = known_rfcs().map(|number| number.to_string()).collect::<Vec<_>>().join(", ");
                call.fault(format!("RFC {number} is not in the table: there are {known}"))
            })?;
            Filter::Rfcs(numbers)
        }
        "size" => {
            let text = call.text("the bits of the network")?;
            let bits = text.parse().ok().filter(|bits| *bits <= 128);
            Filter::Bits(bits.ok_or_else(|| call.fault(format!("`{text}` is no number of bits")))?)
        }
        "type" => {
            let text = call.text("types")?.to_ascii_lowercase();
            let (mut v4, mut v6) = (false, false);
            for part in text.split('|') {
                match part {
                    "ip" => (v4, v6) = (true, true),
                    "ipv4" => v4 = true,
                    "ipv6" => v6 = true,
                    "unix" => {}
                    other => return Err(call.fault(format!("`{other}` is no type: use ipv4, ipv6 or ip"))),
                }
            }
            Filter::Family { v4, v6 }
        }
        other => {
            return Err(call.fault(format!(
                "`{other}` cannot be looked at: there are address, flags, name, network, rfc, size and type"
            )));
        }
    };
    Ok(call.list()?.then(Step::Keep(filter, wanted)))
}

fn sort_keys(call: &mut Call) -> Result<Vec<(Key, Order)>, TemplateError> {
    let text = call.text("what to sort by")?.to_ascii_lowercase();
    text.split(',')
        .map(|clause| {
            let clause = clause.trim();
            let order = if clause.starts_with('-') { Order::Down } else { Order::Up };
            let key = match clause.trim_start_matches(['+', '-']) {
                "address" => Key::Address,
                "default" => Key::Default,
                "name" => Key::Name,
                "private" => Key::Private,
                "size" => Key::Size,
                "type" => Key::Type,
                other => {
                    return Err(call.fault(format!(
                        "`{other}` cannot be sorted by: there are address, default, name, private, size and type"
                    )));
                }
            };
            Ok((key, order))
        })
        .collect()
}

fn attribute(call: &mut Call) -> Result<Attribute, TemplateError> {
    let text = call.text("an attribute")?.to_ascii_lowercase();
    Ok(match text.as_str() {
        "address" | "host" => Attribute::Address,
        "string" => Attribute::Full,
        "name" => Attribute::Name,
        "type" => Attribute::Type,
        "network" => Attribute::Network,
        "mask_bits" => Attribute::Bits,
        other => {
            return Err(call.fault(format!(
                "`{other}` is no attribute: there are address, host, mask_bits, name, network, string and type"
            )));
        }
    })
}
