-- From PostgreSQL 15 on; one script serves all versions.
do $$
begin
    if current_setting('server_version_num')::int >= 150000 then
@commands@
    end if;
end
$$;
