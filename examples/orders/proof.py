"""The proof: what the orders say and what the shop's books say is the same.

Each check is a query that returns what is wrong; none trusts another. The books (`shop.ledger`, `shop.stock_moves`) can
hold a double charge and the balances can be off, so each of these checks can fail; tests/examples shows that each does.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

import psycopg

from .doubles import JOURNEY

# Each order by its last word: what it must have done to the books.
_ORDERS = """
with o as (
    select i.id as instance_id, i.status, i.error, i.output,
           coalesce(i.output ->> 'end', case i.status when 'cancelled' then 'cancelled' end) as "end",
           i.input ->> 'order_id' as order_id, (i.input ->> 'account')::int as account,
           i.input ->> 'sku' as sku, (i.input ->> 'n')::int as n, (i.input ->> 'cents')::bigint as cents,
           i.input ->> 'address' as address
      from durable.instances i
     where i.workflow = 'order'
)
"""

CHECKS = {
    "every order came to its end": """
        select format('order %s stands at %s: %s', o.order_id, o.status,
                      coalesce(o.error ->> 'message', o."end", 'no result'))
          from o
         where o.status not in ('completed', 'cancelled')
            or o."end" is null or o."end" not in ('shipped', 'refunded', 'declined', 'cancelled')""",
    "no order exists twice": """
        select format('order %s has %s instances', o.order_id, count(*))
          from o group by o.order_id having count(*) > 1""",
    "none was charged twice, none missed": """
        select format('order %s (%s) is debited %s times, %s cents; expected %s times, %s cents', o.order_id, o."end",
                      coalesce(l.times, 0), coalesce(l.cents, 0), due.times, due.times * o.cents)
          from o
          left join (select order_id, account, count(*) as times, sum(cents) as cents
                       from shop.ledger where kind = 'debit' group by 1, 2) l using (order_id, account)
         cross join lateral (select case when "end" = 'cancelled' then least(coalesce(l.times, 0), 1)
                                          when "end" is not null then ("end" <> 'declined')::int end as times) due
         where coalesce(l.times, 0) <> due.times or coalesce(l.cents, 0) <> due.times * o.cents""",
    "every refund was paid once": """
        select format('order %s (%s) is refunded %s times, %s cents; expected %s times, %s cents', o.order_id, o."end",
                      coalesce(l.times, 0), coalesce(l.cents, 0), due.times, due.times * o.cents)
          from o
          left join (select order_id, account, count(*) filter (where kind = 'debit') as debits,
                            count(*) filter (where kind = 'refund') as times,
                            sum(cents) filter (where kind = 'refund') as cents
                       from shop.ledger group by 1, 2) l using (order_id, account)
         cross join lateral (select case when "end" = 'cancelled' then coalesce(l.debits, 0)
                                          when "end" is not null then ("end" = 'refunded')::int end as times) due
         where coalesce(l.times, 0) <> due.times or coalesce(l.cents, 0) <> due.times * o.cents""",
    "the books hold nothing else": """
        select format('the books have a %s of order %s, account %s: no such order', b.kind, b.order_id, b.account)
          from (select order_id, account, kind from shop.ledger
                union all
                select m.order_id, null, 'stock move' from shop.stock_moves m) b
         where not exists (select from o where o.order_id = b.order_id
                              and o.account = coalesce(b.account, o.account))""",
    "every balance is what the orders say": """
        select format('account %s has %s cents; its orders say %s', a.id, a.cents,
                      a.opening_cents - coalesce(s.cents, 0))
          from shop.accounts a
          left join (select account, sum(cents) as cents
                       from o where "end" = 'shipped' group by 1) s on s.account = a.id
         where a.cents <> a.opening_cents - coalesce(s.cents, 0)""",
    "every shelf holds what the orders say": """
        select format('%s has %s pieces left; its orders say %s', k.sku, k.n, k.opening - coalesce(s.n, 0))
          from shop.stock k
          left join (select sku, sum(n) as n from o where "end" = 'shipped' group by 1) s on s.sku = k.sku
         where k.n <> k.opening - coalesce(s.n, 0)""",
    "goods left once, or came back": """
        select format('order %s (%s) took goods %s times, %s pieces, and put back %s times, %s pieces', o.order_id,
                      o."end", m.takes, m.taken, m.returns, m.returned)
          from o
         cross join lateral (
            select count(*) filter (where n > 0) as takes, coalesce(sum(n) filter (where n > 0), 0) as taken,
                   count(*) filter (where n < 0) as returns, coalesce(-sum(n) filter (where n < 0), 0) as returned
              from shop.stock_moves where order_id = o.order_id and sku = o.sku) m
         where m.takes > 1 or m.taken <> m.takes * o.n or m.returned <> m.returns * o.n
            or ("end" = 'shipped' and (m.takes, m.returns) <> (1, 0))
            or ("end" <> 'shipped' and m.takes <> m.returns)""",
    "every cent is in one closing": """
        select format('the lines of closing %s come to %s cents, it says %s', closing, l.cents, c.cents)
          from (select closing, sum(case kind when 'debit' then cents else -cents end) as cents
                  from shop.ledger group by 1) l
          full join (select closing, sum(cents) as cents from shop.closings group by 1) c using (closing)
         where coalesce(l.cents, 0) is distinct from c.cents
         union all
        select format('tick %s of the schedule has closed the books %s times', k.id, count(c.closing))
          from durable.instances i
          join durable.instance_keys k on k.instance_id = i.id
          left join shop.closings c on (c.closing || '+00')::timestamptz = (i.labels ->> 'scheduled_at')::timestamptz
         where i.workflow = 'closing' and i.status = 'completed'
         group by k.id having count(c.closing) <> 1""",
    "every parcel was packed once": """
        select format('order %s (%s) was packed %s times', o.order_id, o."end", count(i.id))
          from o
          left join durable.instances i
            on i.parent = o.instance_id and i.workflow = 'packing' and i.status = 'completed'
         group by o.order_id, o."end"
        having count(i.id) > 1 or (o."end" = 'shipped' and count(i.id) = 0)""",
    "no depot had more at once than hands": """
        select format('depot %s packed %s parcels at once, with %s hands', e.partition, max(e.n), q.hands)
          from (select partition, at, sum(d) over (partition by partition order by at, d) as n
                  from (select partition, started_at as at, 1 as d from durable.instances
                         where workflow = 'packing' and started_at is not null
                        union all
                        select partition, finished_at, -1 from durable.instances
                         where workflow = 'packing' and started_at is not null and finished_at is not null) moment) e
          join (select partition_concurrency as hands from durable.queues where name = 'depots') q on e.n > q.hands
         group by e.partition, q.hands""",
    "no step was checkpointed twice": """
        select format('instance %s has %s checkpoints for step %s (command %s)', h.instance_id, count(*), h.name, h.seq)
          from durable.history h
         where h.kind = 'step' and exists (select from durable.instances i where i.id = h.instance_id
                                              and i.workflow in ('order', 'packing', 'closing'))
         group by h.instance_id, h.name, h.seq having count(*) > 1""",
}
NOTHING_LOST = "every acknowledged start is there"
ADDRESSES = "every parcel went where its customer was told"
JOURNEYS = "every journey was told once, in order"

# The last confirmed change of address, or that of the order.
_ADDRESSES = """
select o.order_id, o.output ->> 'parcel', o.output ->> 'label', coalesce(u.address, o.address)
  from o
  left join lateral (select substr(u.result #>> '{}', length('goes to ') + 1) as address
                       from durable.updates u
                      where u.instance_id = o.instance_id and u.name = 'redirect' and u.status = 'completed'
                      order by u.answered_at desc limit 1) u on true
 where o."end" = 'shipped'
"""
_JOURNEYS = """
select o.order_id, o."end", array(select s.item #>> '{}' from durable.stream_items s
                                   where s.instance_id = o.instance_id and s.stream = 'tracking' and s.kind = 'item'
                                   order by s.position)
  from o
"""


@dataclass
class Told:
    """What the customers were told while it all happened.

    Attributes:
        started: order id to instance id of each start that was acknowledged.
        addresses: order id to the address that was confirmed.
        places: order id to the places of its parcel's journey that somebody read as they came; of a customer who read
            to the end.
    """

    started: dict[str, uuid.UUID] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)


def check(conn: psycopg.Connection[Any], told: Told) -> dict[str, list[str]]:
    """Runs every check. No order may be under way any more, or the checks would look at different moments.

    Returns: for each check what is wrong, one line each; nothing anywhere when all is well.
    """
    found = {name: [row[0] for row in conn.execute(_ORDERS + query)] for name, query in CHECKS.items()}
    there = dict(conn.execute(_ORDERS + "select instance_id, order_id from o").fetchall())
    found[NOTHING_LOST] = [
        f"order {order_id} was acknowledged as instance {instance_id}, which "
        + (f"is order {there[instance_id]}" if instance_id in there else "does not exist")
        for order_id, instance_id in told.started.items()
        if there.get(instance_id) != order_id
    ]
    found[ADDRESSES] = [
        f"the parcel of order {order_id} is labelled {label!r}, to go to {told.addresses.get(order_id, to)!r}"
        for order_id, parcel, label, to in conn.execute(_ORDERS + _ADDRESSES).fetchall()
        if label != f"{parcel} to {told.addresses.get(order_id, to)}" or label != f"{parcel} to {to}"
    ]
    found[JOURNEYS] = [
        f"the journey of order {order_id} ({end}) is {places}; its customer saw {told.places.get(order_id, places)}"
        for order_id, end, places in conn.execute(_ORDERS + _JOURNEYS).fetchall()
        if not _right(places, end) or not _right(told.places.get(order_id, places), end)
    ]
    return found


def _right(places: list[str], end: str) -> bool:
    """Whole where the order was shipped; of any other a part, from its beginning."""
    return tuple(places) == JOURNEY[: len(JOURNEY) if end == "shipped" else len(places)]
