-- The operators, in the schema where everybody finds them; those that are there stay. All bind alike, from left to right:
-- a ~> b |=> 'x' names the result of both. On text they make nodes of this schema, on jsonb definitions, as the functions of
-- @extschema@ do.
do $$
declare
    o record;
begin
    for o in select * from (values
        ('~>', 'text', 'text', 'seq'),
        ('|=>', 'text', 'text', 'as'),
        ('&', 'text', 'text', 'join'),
        ('|', 'text', 'text', 'race'),
        ('?>', 'text', 'text', '_if_then'),
        ('!>', 'text', 'text', '_if_else'),
        ('@>', null, 'text', '_loop'),
        ('~>', 'jsonb', 'jsonb', '_j_seq'),
        ('|=>', 'jsonb', 'text', '_j_as'),
        ('&', 'jsonb', 'jsonb', '_j_join'),
        ('|', 'jsonb', 'jsonb', '_j_race'),
        ('?>', 'jsonb', 'jsonb', '_j_then'),
        ('!>', 'jsonb', 'jsonb', '_j_else'),
        ('@>', null, 'jsonb', '_j_loop')) as v (sign, leftarg, rightarg, function)
    loop
        if to_regoperator(format('@operators@.%s(%s,%s)', o.sign, coalesce(o.leftarg, 'none'), o.rightarg)) is null then
            execute format('create operator @operators@.%s (function = df.%I, %s rightarg = %s)',
                           o.sign, o.function, coalesce('leftarg = ' || o.leftarg || ',', ''), o.rightarg);
        end if;
    end loop;
end
$$;
