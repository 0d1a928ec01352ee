"""The proof: what the orders say and what the shop's books say is the same.

Each check is a query that returns what is wrong; none trusts another. The books (`shop.ledger`, `shop.stock_moves`) can
hold a double charge and the balances can be off, so each of these checks can fail; tests/examples shows that each does.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import psycopg

# Each order by its last word: what it must have done to the books.
_ORDERS = """
with o as (
    select i.id as instance_id, i.status, i.error, i.output ->> 'end' as "end",
           i.input ->> 'order_id' as order_id, (i.input ->> 'account')::int as account,
           i.input ->> 'sku' as sku, (i.input ->> 'n')::int as n, (i.input ->> 'cents')::bigint as cents
      from durable.instances i
     where i.workflow = 'order'
)
"""

CHECKS = {
    "every order came to its end": """
        select format('order %s stands at %s: %s', o.order_id, o.status,
                      coalesce(o.error ->> 'message', o."end", 'no result'))
          from o
         where o.status <> 'completed' or o."end" is null or o."end" not in ('shipped', 'refunded', 'declined')""",
    "no order exists twice": """
        select format('order %s has %s instances', o.order_id, count(*))
          from o group by o.order_id having count(*) > 1""",
    "none was charged twice, none missed": """
        select format('order %s (%s) is debited %s times, %s cents; expected %s times, %s cents', o.order_id, o."end",
                      coalesce(l.times, 0), coalesce(l.cents, 0), due.times, due.times * o.cents)
          from o
         cross join lateral (select ("end" <> 'declined')::int as times) due
          left join (select order_id, account, count(*) as times, sum(cents) as cents
                       from shop.ledger where kind = 'debit' group by 1, 2) l using (order_id, account)
         where coalesce(l.times, 0) <> due.times or coalesce(l.cents, 0) <> due.times * o.cents""",
    "every refund was paid once": """
        select format('order %s (%s) is refunded %s times, %s cents; expected %s times, %s cents', o.order_id, o."end",
                      coalesce(l.times, 0), coalesce(l.cents, 0), due.times, due.times * o.cents)
          from o
         cross join lateral (select ("end" = 'refunded')::int as times) due
          left join (select order_id, account, count(*) as times, sum(cents) as cents
                       from shop.ledger where kind = 'refund' group by 1, 2) l using (order_id, account)
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
    "goods were taken once per order": """
        select format('order %s (%s) took goods %s times, %s pieces; expected %s times, %s pieces', o.order_id, o."end",
                      coalesce(m.times, 0), coalesce(m.n, 0), due.times, due.times * o.n)
          from o
         cross join lateral (select ("end" = 'shipped')::int as times) due
          left join (select order_id, sku, count(*) as times, sum(n) as n
                       from shop.stock_moves group by 1, 2) m using (order_id, sku)
         where coalesce(m.times, 0) <> due.times or coalesce(m.n, 0) <> due.times * o.n""",
    "no step was checkpointed twice": """
        select format('instance %s has %s checkpoints for step %s (command %s)', h.instance_id, count(*), h.name, h.seq)
          from durable.history h
         where h.kind = 'step' and exists (select from o where o.instance_id = h.instance_id)
         group by h.instance_id, h.name, h.seq having count(*) > 1""",
}
NOTHING_LOST = "every acknowledged start is there"


def check(conn: psycopg.Connection[Any], acknowledged: Mapping[str, uuid.UUID]) -> dict[str, list[str]]:
    """Runs every check. No order may be under way any more, or the checks would look at different moments.

    Args:
        acknowledged: order id to instance id of each start that somebody was told of.
    Returns: for each check what is wrong, one line each; nothing anywhere when all is well.
    """
    found = {name: [row[0] for row in conn.execute(_ORDERS + query)] for name, query in CHECKS.items()}
    there = dict(conn.execute(_ORDERS + "select instance_id, order_id from o").fetchall())
    found[NOTHING_LOST] = [
        f"order {order_id} was acknowledged as instance {instance_id}, which "
        + (f"is order {there[instance_id]}" if instance_id in there else "does not exist")
        for order_id, instance_id in acknowledged.items()
        if there.get(instance_id) != order_id
    ]
    return found
