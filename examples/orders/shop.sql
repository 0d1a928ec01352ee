-- The shop's own data: ordinary tables beside pgdurable's, in the same database.
--
-- `ledger` and `stock_moves` have no unique key on purpose: nothing here prevents a double charge. If one happened,
-- it would be written down, and the proof at the end would find it.

create table if not exists shop.accounts (
    id             int primary key,
    opening_cents  bigint not null,
    cents          bigint not null
);

create table if not exists shop.stock (
    sku      text primary key,
    opening  int not null,
    n        int not null check (n >= 0)
);

create table if not exists shop.ledger (
    at        timestamptz not null default now(),
    order_id  text not null,
    account   int not null,
    kind      text not null check (kind in ('debit', 'refund')),
    cents     bigint not null,
    closing   text  -- the one that counted this line, null before
);

create index if not exists ledger_open on shop.ledger (at) where closing is null;

create table if not exists shop.closings (
    at       timestamptz not null default now(),
    closing  text not null,
    cents    bigint not null
);

create table if not exists shop.stock_moves (
    at        timestamptz not null default now(),
    order_id  text not null,
    sku       text not null,
    n         int not null
);
