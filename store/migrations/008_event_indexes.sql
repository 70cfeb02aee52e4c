-- What agentlab events asks for by sandbox, by principal and by time is found without
-- reading all events.
CREATE INDEX events_of_sandbox ON events (sandbox);
CREATE INDEX events_of_principal ON events (principal);
CREATE INDEX events_at ON events (time);
