-- Sign-off: a document is valid when three people have signed it, in any order; until then each can be asked who is missing.
create schema signoff_demo;
create table signoff_demo.documents (id int primary key, title text, state text not null default 'draft');
create table signoff_demo.signatures (document int, by_whom text, at timestamptz default now(), primary key (document, by_whom));
insert into signoff_demo.documents select n, 'Contract ' || n from generate_series(1, 100) n;

select durable.define('sign_off', durable.seq(
    durable.sql('update signoff_demo.documents set state = ''out for signature'' where id = $document'),
    durable.parallel(
        durable.seq(durable.wait_signal('legal', "into" => 'a'),
                    durable.sql('insert into signoff_demo.signatures values ($document, $a.data.name)')),
        durable.seq(durable.wait_signal('finance', "into" => 'b'),
                    durable.sql('insert into signoff_demo.signatures values ($document, $b.data.name)')),
        durable.seq(durable.wait_signal('board', "into" => 'c'),
                    durable.sql('insert into signoff_demo.signatures values ($document, $c.data.name)'))),
    durable.sql('update signoff_demo.documents set state = ''signed'' where id = $document')));

select count(durable.start('sign_off', jsonb_build_object('document', id), id => 'document/' || id)) from signoff_demo.documents;
select durable.signal('document/' || id, 'board', '{"name": "Lee"}') from signoff_demo.documents;
call durable.work(max_time => '60 s');
select * from durable.explain('document/1');
select durable.signal('document/' || id, 'legal', '{"name": "Ann; drop table"}') from signoff_demo.documents;
-- Finance signs all but every tenth.
select durable.signal('document/' || id, 'finance', '{"name": "O''Hara"}') from signoff_demo.documents where id % 10 <> 0;
call durable.work(max_time => '60 s');

do $$
begin
    assert (select count(*) from signoff_demo.documents where state = 'signed') = 90, 'signed by all three';
    assert (select count(*) from signoff_demo.documents where state = 'out for signature') = 10, 'the others wait';
    assert (select count(*) from signoff_demo.signatures) = 290, 'each signature once';
    assert (select count(*) from durable.instances where workflow = 'sign_off' and status = 'waiting') = 10, 'and cost nothing';
end $$;
