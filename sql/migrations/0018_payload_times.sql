-- When a large payload was last written: one that is written just now is not swept for want of a reference.
alter table @extschema@.payloads add column written_at timestamptz not null default now();
