//! What a text can do against, and how bad that is.

/// How bad a finding is; only errors fail the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// It does not do what it says.
    Error,
    /// It may not, somewhere or some day.
    Warning,
    /// There is a better way.
    Info,
}

impl Severity {
    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// What a text does against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// A physical line that fleet refuses.
    LineTooLong,
    /// A comment inside a continued line: systemd skips it, fleet fails.
    CommentInContinuation,
    /// An option before the first section: dropped in silence.
    OptionBeforeSection,
    /// A line that is no option, or a damaged section name.
    NotAnOption,
    /// A key of `[X-Fleet]` that fleet does not know.
    FleetKey,
    /// Keys of `[X-Fleet]` that some versions of fleet refuse together.
    FleetCombination,
    /// `[Install]` in a unit for fleet.
    FleetInstall,
    /// A name that fleet refuses.
    UnitName,
    /// A unit that is enabled, or stands in a file of its own, and nothing says for what it starts.
    NotInstallable,
    /// A script or program in a folder for temporary files.
    TemporaryScript,
    /// The Docker API, open to everybody who reaches the machine.
    DockerOnTcp,
    /// Waiting for a time instead of for what is awaited.
    Sleep,
    /// Cleaning up that fails when there is nothing to clean up.
    CleanupMustNotFail,
    /// An address of `/etc/environment` that may be empty.
    AddressUnchecked,
    /// A download that systemd's start timeout cuts off.
    DownloadTimeout,
    /// DNS published on UDP alone: truncated answers cannot be asked for again.
    DnsOnlyUdp,
    /// A port of the machine that two units publish.
    PortClash,
    /// The first line is not exactly `#cloud-config`.
    Header,
    /// A scalar that YAML versions read differently.
    Ambiguous,
    /// A text without quotes: a rule for our own output alone.
    Unquoted,
    /// URLs in a flow list, which coreos-cloudinit's YAML cannot read.
    FlowList,
    /// A tab in the indentation.
    Tab,
    /// Not YAML, or not JSON.
    NotYaml,
    /// A key that stands twice: the first one is lost.
    DuplicateKey,
    /// `${private_ipv4}`, which coreos-cloudinit leaves as it is.
    BracedVariable,
    /// Variables side by side, of which only the first is replaced.
    AdjacentVariables,
    /// A variable with a letter or digit right after it.
    VariableRunsOn,
    /// A variable of coreos-cloudinit in a file for something else.
    ForeignVariable,
    /// A key that the reader ignores.
    UnknownKey,
    /// A value of another type.
    WrongType,
    /// A value that the reader refuses.
    InvalidValue,
    /// A key for something that is no longer shipped.
    Deprecated,
    /// A discovery URL that is none.
    DiscoveryUrl,
    /// Content that is not in the encoding that it names.
    Encoding,
    /// A key that belongs elsewhere.
    Misplaced,
    /// `manage_etc_hosts` with a value that ends the application of the file.
    EtcHosts,
    /// A file below `/usr`, which is read-only.
    FilePath,
    /// A mode that was written in octal digits and is read as decimal.
    DecimalMode,
    /// A version that no reader knows.
    Version,
    /// A download that nothing checks.
    Unverified,
    /// Two entries for the same path or name.
    Twice,
    /// A form of user-data of which only the first line is understood here.
    NotLookedAt,
}

impl Rule {
    /// How bad it is to do against it.
    pub fn severity(self) -> Severity {
        match self {
            Self::LineTooLong
            | Self::CommentInContinuation
            | Self::OptionBeforeSection
            | Self::NotAnOption
            | Self::FleetCombination
            | Self::UnitName
            | Self::DockerOnTcp
            | Self::Header
            | Self::FlowList
            | Self::Tab
            | Self::NotYaml
            | Self::AdjacentVariables
            | Self::InvalidValue
            | Self::Encoding
            | Self::EtcHosts
            | Self::FilePath
            | Self::Version
            | Self::Twice => Severity::Error,
            Self::FleetKey
            | Self::FleetInstall
            | Self::NotInstallable
            | Self::TemporaryScript
            | Self::CleanupMustNotFail
            | Self::AddressUnchecked
            | Self::DownloadTimeout
            | Self::DnsOnlyUdp
            | Self::PortClash
            | Self::Ambiguous
            | Self::DuplicateKey
            | Self::BracedVariable
            | Self::VariableRunsOn
            | Self::ForeignVariable
            | Self::UnknownKey
            | Self::WrongType
            | Self::Deprecated
            | Self::DiscoveryUrl
            | Self::DecimalMode
            | Self::Unverified => Severity::Warning,
            Self::Sleep | Self::Unquoted | Self::Misplaced | Self::NotLookedAt => Severity::Info,
        }
    }

    /// Whether it is for our own output alone: files of people need no quotes around plain words.
    pub fn is_for_us(self) -> bool {
        self == Self::Unquoted
    }

    /// Whether `coreos-cloudinit -validate` finds it too.
    pub fn is_original(self) -> bool {
        matches!(
            self,
            Self::Header
                | Self::UnknownKey
                | Self::WrongType
                | Self::InvalidValue
                | Self::Deprecated
                | Self::DiscoveryUrl
                | Self::Encoding
                | Self::Misplaced
                | Self::FilePath
        )
    }

    /// The name in JSON: `line-too-long`.
    pub fn name(self) -> String {
        let mut name = String::new();
        for character in format!("{self:?}").chars() {
            if character.is_ascii_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(character.to_ascii_lowercase());
        }
        name
    }
}
