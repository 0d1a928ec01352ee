-- Row-level security by submitter. Workers and administrators see and write every row, readers see every row, a client
-- sees what it submitted. Whoever else was granted a table sees nothing in it; the owner and superusers see all.
--
-- `using (true)` leaves no condition in a worker's plans. `for select` is all a client needs: it writes by functions.

alter table @extschema@.instances enable row level security;
create policy pgdurable_all on @extschema@.instances to @worker@, @admin@ using (true) with check (true);
create policy pgdurable_read on @extschema@.instances for select to @reader@ using (true);
create policy pgdurable_own on @extschema@.instances for select to @client@ using (submitted_by = current_user::text);

alter table @extschema@.instance_keys enable row level security;
create policy pgdurable_all on @extschema@.instance_keys to @worker@, @admin@ using (true) with check (true);
create policy pgdurable_read on @extschema@.instance_keys for select to @reader@ using (true);
create policy pgdurable_own on @extschema@.instance_keys for select to @client@
    using (exists (select from @extschema@.instances i where i.id = instance_keys.instance_id));

alter table @extschema@.history enable row level security;
create policy pgdurable_all on @extschema@.history to @worker@, @admin@ using (true) with check (true);
create policy pgdurable_read on @extschema@.history for select to @reader@ using (true);
create policy pgdurable_own on @extschema@.history for select to @client@
    using (exists (select from @extschema@.instances i where i.id = history.instance_id));

alter table @extschema@.events enable row level security;
create policy pgdurable_all on @extschema@.events to @worker@, @admin@ using (true) with check (true);
create policy pgdurable_read on @extschema@.events for select to @reader@ using (true);
create policy pgdurable_own on @extschema@.events for select to @client@
    using (exists (select from @extschema@.instances i where i.id = events.instance_id));

alter table @extschema@.states enable row level security;
create policy pgdurable_all on @extschema@.states to @worker@, @admin@ using (true) with check (true);
create policy pgdurable_read on @extschema@.states for select to @reader@ using (true);
create policy pgdurable_own on @extschema@.states for select to @client@
    using (exists (select from @extschema@.instances i where i.id = states.instance_id));

alter table @extschema@.updates enable row level security;
create policy pgdurable_all on @extschema@.updates to @worker@, @admin@ using (true) with check (true);
create policy pgdurable_read on @extschema@.updates for select to @reader@ using (true);
create policy pgdurable_own on @extschema@.updates for select to @client@
    using (exists (select from @extschema@.instances i where i.id = updates.instance_id));

alter table @extschema@.stream_items enable row level security;
create policy pgdurable_all on @extschema@.stream_items to @worker@, @admin@ using (true) with check (true);
create policy pgdurable_read on @extschema@.stream_items for select to @reader@ using (true);
create policy pgdurable_own on @extschema@.stream_items for select to @client@
    using (exists (select from @extschema@.instances i where i.id = stream_items.instance_id));

alter table @extschema@.schedules enable row level security;
create policy pgdurable_all on @extschema@.schedules to @worker@, @admin@ using (true) with check (true);
create policy pgdurable_read on @extschema@.schedules for select to @reader@ using (true);
create policy pgdurable_own on @extschema@.schedules for select to @client@ using (submitted_by = current_user::text);

alter table @extschema@.attempts enable row level security;
create policy pgdurable_all on @extschema@.attempts to @worker@, @admin@ using (true) with check (true);
create policy pgdurable_read on @extschema@.attempts for select to @reader@ using (true);
create policy pgdurable_own on @extschema@.attempts for select to @client@
    using (exists (select from @extschema@.instances i where i.id = attempts.instance_id));

alter table @extschema@.payloads enable row level security;
create policy pgdurable_all on @extschema@.payloads to @worker@, @admin@ using (true) with check (true);
create policy pgdurable_read on @extschema@.payloads for select to @reader@ using (true);
create policy pgdurable_own on @extschema@.payloads for select to @client@
    using (exists (select from @extschema@.instances i where i.id = payloads.instance_id));

alter table @extschema@.sql_runs enable row level security;
create policy pgdurable_all on @extschema@.sql_runs to @worker@, @admin@ using (true) with check (true);
create policy pgdurable_read on @extschema@.sql_runs for select to @reader@ using (true);
create policy pgdurable_own on @extschema@.sql_runs for select to @client@
    using (exists (select from @extschema@.instances i where i.id = sql_runs.instance_id));

alter table @extschema@.tasks enable row level security;
create policy pgdurable_all on @extschema@.tasks to @worker@, @admin@ using (true) with check (true);
create policy pgdurable_read on @extschema@.tasks for select to @reader@ using (true);
create policy pgdurable_own on @extschema@.tasks for select to @client@
    using (exists (select from @extschema@.instances i where i.id = tasks.instance_id));
