// An external worker in Node: does the steps of one queue, each in a transaction that also ends the step.
//
//     npm install && node worker.mjs labels
//
// The connection is libpq's environment (PGHOST, PGDATABASE, ...) or DATABASE_URL.
import os from 'node:os'
import pg from 'pg'

const queue = process.argv[2] ?? 'default'
const holder = `${os.hostname()}:${process.pid}`
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL })

// What this worker can do, by the step's name. `client` is in a transaction: what is written there and the step's end are
// one commit. `beat` keeps the lease while it takes long, and keeps details for the next attempt; false: nobody waits.
const steps = {
  async print({ input, client }) {
    await client.query('insert into labels (order_id, text) values ($1, $2)', [input.order, input.text])
    return { printed: input.order }
  },
  async render({ input, details, beat }) {
    for (let page = details?.page ?? 0; page < input.pages; page++) {
      if (!(await beat({ page }))) throw new Error('nobody waits for it any more')
    }
    return { pages: input.pages }
  },
}

async function run(job) {
  const { id, step, attempt, seq, input, details } = job
  const beat = async (said) => {
    const got = await pool.query('select durable.heartbeat($1, $2, $3, $4, $5) as go_on',
      [id, step, JSON.stringify(said), attempt, seq])
    return got.rows[0].go_on
  }
  const client = await pool.connect()
  try {
    await client.query('begin')
    const output = await steps[step]({ input, details, client, beat })
    const done = await client.query('select durable.complete_step($1, $2, $3, $4, $5) as done',
      [id, step, JSON.stringify(output ?? null), attempt, seq])
    // false: this attempt had ended before, so its work is there already.
    await client.query(done.rows[0].done ? 'commit' : 'rollback')
  } catch (error) {
    await client.query('rollback')
    // PGD11, PGD12, PGD03: somebody else has it by now, or nobody waits.
    if (!String(error.code).startsWith('PGD')) {
      await pool.query('select durable.fail_step($1, $2, $3, $4, attempt => $5, seq => $6)',
        [id, step, error.message, error.name, attempt, seq])
    }
  } finally {
    client.release()
  }
}

let stopping = false
let wake = () => {}
process.on('SIGTERM', () => { stopping = true; wake() })

// Notifications are hints; looking once a second finds the same.
const listener = await pool.connect()
listener.on('notification', () => wake())
await listener.query('listen pgdurable_durable')

while (!stopping) {
  const jobs = await pool.query('select * from durable.claim_external($1, 5, $2, $3, $4)',
    [queue, '30 seconds', Object.keys(steps), holder])
  await Promise.all(jobs.rows.map(run))
  if (jobs.rows.length === 0 && !stopping) {
    await new Promise((resolve) => { wake = resolve; setTimeout(resolve, 1000) })
  }
}
listener.release()
await pool.end()
