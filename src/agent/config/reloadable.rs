//! Which settings can change while an agent runs, and which wait for its next start.

use super::Settings;

/// The keys of `$fields` that differ. A field of the settings that stands in neither list does not compile.
macro_rules! differing {
    ($old:ident, $new:ident, reloadable: $($reloadable:ident)+, others: $($field:ident $key:literal)+) => {{
        let Settings { $($reloadable: _,)+ $($field: _,)+ } = $old;
        let mut keys = Vec::new();
        $(if $old.$field != $new.$field { keys.push($key); })+
        keys.dedup();
        keys
    }};
}

impl Settings {
    /// Takes services, checks and the log's level from `new`; gives the keys of all else that differs, which an agent
    /// takes at its next start only.
    #[must_use]
    pub fn take_reloadable(&mut self, new: Self) -> Vec<&'static str> {
        let others = self.keys_that_differ(&new);
        self.services = new.services;
        self.checks = new.checks;
        self.log_level = new.log_level;
        others
    }

    fn keys_that_differ(&self, new: &Self) -> Vec<&'static str> {
        differing!(self, new,
            reloadable: services checks log_level warnings advertise_reason,
            others:
                node_name "node_name"
                node_id "node_id"
                node_meta "node_meta"
                datacenter "datacenter"
                domain "domain"
                alt_domain "alt_domain"
                data_dir "data_dir"
                dev "dev"
                server "server"
                bootstrap "bootstrap"
                expect "bootstrap_expect"
                bind "bind_addr"
                advertise "advertise_addr"
                http "client_addr"
                dns "client_addr"
                ports "ports"
                retry_join "retry_join"
                retry_interval "retry_interval"
                recursors "recursors"
                recursor_timeout "dns_config"
                recursor_random "dns_config"
                only_passing "dns_config"
                enable_truncate "dns_config"
                dns_ttl "dns_config"
                udp_answer_limit "dns_config"
                a_record_limit "dns_config"
                soa "dns_config"
                http_connections_per_client "limits"
                kv_value_bytes "limits"
                pid_file "pid_file"
                leave_on_terminate "leave_on_terminate"
                leave_on_interrupt "skip_leave_on_interrupt"
                replace "replace"
                replace_after "replace_after"
                check_update_interval "check_update_interval"
        )
    }
}
