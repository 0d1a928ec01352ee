-- Onboarding: an account is prepared, a person approves or declines; who is not answered in time is reminded, then declined.
create schema onboarding_demo;
create table onboarding_demo.users (id int primary key, mail text, state text not null default 'new', by_whom text);
create table onboarding_demo.mails (user_id int, what text);
insert into onboarding_demo.users select n, 'user' || n || '@example.com' from generate_series(1, 300) n;

select durable.define('onboard', durable.seq(
    durable.sql('update onboarding_demo.users set state = ''waiting'' where id = $user returning mail', 'u'),
    durable.wait_signal('decision', timeout => '200 ms', "into" => 'd'),
    durable.if('select $d.timed_out', durable.seq(
        durable.sql('insert into onboarding_demo.mails values ($user, ''reminder'')'),
        durable.wait_signal('decision', timeout => '200 ms', "into" => 'd'))),
    durable.if('select coalesce(($d.data.approved?)::boolean, false)',
        durable.seq(
            durable.sql('update onboarding_demo.users set state = ''active'', by_whom = $d.data.by where id = $user'),
            durable.sql('insert into onboarding_demo.mails values ($user, ''welcome, $u.mail'')')),
        durable.sql('update onboarding_demo.users set state = ''declined'' where id = $user'))));

select count(durable.start('onboard', jsonb_build_object('user', id), id => 'user/' || id)) from onboarding_demo.users;
-- Of three one is approved at once, even before the workflow asks; one declined; one never answered.
select durable.signal('user/' || id, 'decision', jsonb_build_object('approved', id % 3 = 0, 'by', 'O''Brien'))
  from onboarding_demo.users where id % 3 < 2;
call durable.work(max_time => '3 s', wait => true);

do $$
begin
    assert (select count(*) from onboarding_demo.users where state = 'active' and by_whom = 'O''Brien') = 100, 'approved';
    assert (select count(*) from onboarding_demo.users where state = 'declined') = 200, 'declined, or never answered';
    assert (select count(*) from onboarding_demo.mails where what = 'reminder') = 100, 'one reminder each';
    assert (select count(*) from onboarding_demo.mails where what like 'welcome, user%@example.com') = 100, 'welcomed by name';
end $$;
