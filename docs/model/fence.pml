/* Lease, fence and takeover, as a model that spin can check in every order of events. README.md explains it.
 *
 * Mutations, to show that the checks can fail: spin -DNO_FENCE, -DNO_LOCK, -DLOOK_FIRST, -DNO_PK, -DNOT_IDEMPOTENT,
 * -DKEEPS_MEMORY, -DCLAIMS_ANY.
 */

#ifndef PROCESSES
#define PROCESSES 2       /* worker processes */
#endif
#ifndef INCARNATIONS
#define INCARNATIONS 3    /* how often one of them may join, in all */
#endif
#ifndef STEPS
#define STEPS 2           /* of the one instance; the last one's commit also ends it */
#endif

#define NOBODY 0

mtype = { unborn, alive, dead };

/* -- what the server holds: committed rows, rows of open transactions, locks --------------------------------------- */

mtype state[INCARNATIONS + 1] = unborn;   /* workers.state */
byte owner = NOBODY;                      /* instances.owner */
byte row[STEPS];                          /* who wrote history row n; NOBODY: it is not there */
byte inserted[STEPS];                     /* who has inserted row n and not committed */
bool ended = false;                       /* instances.status */

byte shared[INCARNATIONS + 1];            /* transactions that hold a worker's fence */
bool exclusive[INCARNATIONS + 1];         /* a takeover holds it */
bool terminated[INCARNATIONS + 1];        /* a takeover has ended the session that held it */

/* -- what was promised to somebody ---------------------------------------------------------------------------------- */

byte joined = 0;
bool acknowledged[STEPS];                 /* the workflow has been given the result of step n */

/* Ends a worker's transaction without a commit, and lets its locks go. */
inline roll_back(w, n) {
    if
    :: n < STEPS && inserted[n] == w -> inserted[n] = NOBODY
    :: else
    fi;
    if
    :: shared[w] > 0 -> shared[w]--
    :: else
    fi
}

proctype worker() {
    byte me = NOBODY;       /* the incarnation it takes itself for */
    byte next = 0;          /* the step it is at; what came before it knows from history */
    byte other;
    bool holds = false;     /* it has the instance in memory */
    bool again = false;     /* the batch may have been committed before */
    bool looked = false;

join:
    atomic {
        if
        :: joined < INCARNATIONS ->
            joined++;
            me = joined;
            state[me] = alive
        :: else -> goto over
        fi
    }

serve:
    do
    :: ended -> goto over

    /* Claiming: one transaction, under the fence. History is read after it. */
    :: !holds && !ended ->
        atomic {
            if
#ifdef CLAIMS_ANY
            :: state[me] == alive && !ended && owner != me && !exclusive[me] -> owner = me
#else
            :: state[me] == alive && !ended && !exclusive[me] && (owner == NOBODY || state[owner] == dead) -> owner = me
#endif
            :: state[me] == dead -> goto fenced
            :: else -> goto idle
            fi
        }
        holds = true;
        again = false;
        atomic {
            next = 0;
            do
            :: next < STEPS && row[next] != NOBODY -> next++
            :: else -> break
            od
        }
        if
        :: next == STEPS -> holds = false
        :: else
        fi

    /* Running a step, and writing its checkpoint. */
    :: holds && next < STEPS ->
        /* A step whose checkpoint was acknowledged never runs again. Who was taken over may still run what it was at. */
        assert(!acknowledged[next] || state[me] == dead);
send:
#ifdef NO_FENCE
        skip;
#else
#ifdef LOOK_FIRST
        looked = (state[me] == alive);
#endif
#ifndef NO_LOCK
        atomic { !exclusive[me] -> shared[me]++; terminated[me] = false }
#endif
#ifndef LOOK_FIRST
        looked = (state[me] == alive);
#endif
        atomic {
            if
            :: terminated[me] -> terminated[me] = false; again = true; goto send
            :: !terminated[me] && !looked -> roll_back(me, next); goto fenced
            :: else
            fi
        }
#endif
        /* The insert waits for another transaction that has inserted the same row: it is a primary key. */
        atomic {
            (inserted[next] == NOBODY || terminated[me]) ->
            if
            :: terminated[me] -> terminated[me] = false; again = true; goto send
#ifdef NO_PK
            :: else -> inserted[next] = me
#else
            :: !terminated[me] && row[next] == NOBODY -> inserted[next] = me
            :: !terminated[me] && row[next] != NOBODY && again ->
                /* It is there already: on conflict do nothing, and it counts as ours. */
#ifdef NOT_IDEMPOTENT
                assert(false);      /* a refused batch: the instance would fail for what it has done */
#endif
                roll_back(me, next);
                goto told
            :: !terminated[me] && row[next] != NOBODY && !again -> roll_back(me, next); goto refused
#endif
            fi
        }
        /* The commit: the row appears, the fence is let go. */
        atomic {
            if
            :: terminated[me] -> terminated[me] = false; again = true; goto send
            :: else ->
                /* A worker that was taken over writes nothing. */
                assert(state[me] == alive);
                /* What somebody was told is there is not written over. */
                assert(row[next] == NOBODY);
                row[next] = me;
                roll_back(me, next);
                inserted[next] = NOBODY;
                if
                :: next == STEPS - 1 ->
                    assert(!ended);     /* an instance ends once */
                    ended = true;
                    owner = NOBODY
                :: else
                fi
            fi
        }
        if
        :: skip                     /* the answer comes */
        :: again = true; goto send  /* the answer is lost, and the connection: sent again */
        fi;
told:
        atomic {
            /* Whoever is told that its checkpoint is there has written it itself. */
            assert(row[next] == me);
            acknowledged[next] = true;
            again = false;
            next++;
            if
            :: next == STEPS -> holds = false
            :: else
            fi
        }

    /* Taking another worker over. That its lease has run out is a matter of time, which may always have passed. */
    :: !ended ->
        atomic {
            select(other : 1 .. INCARNATIONS);
            if
            :: other != me && state[other] == alive -> skip
            :: else -> goto idle
            fi
        }
        atomic {
            if
            :: exclusive[other] -> goto idle
            :: !exclusive[other] && shared[other] > 0 ->
                /* A transaction of its is under way: its session is terminated, and the takeover tried again later. */
                terminated[other] = true;
                shared[other] = 0;
                byte n;
                for (n : 0 .. STEPS - 1) {
                    if
                    :: inserted[n] == other -> inserted[n] = NOBODY
                    :: else
                    fi
                }
                goto idle
            :: else -> exclusive[other] = true
            fi
        }
        /* Its state is seen by nobody before the commit, which lets the fence go. */
        atomic {
            if
            :: state[other] == alive -> state[other] = dead
            :: else
            fi;
            exclusive[other] = false
        }
idle:
        skip
    od;

refused:
    /* A row of the instance is there that this worker did not write: it must have been taken over. */
    assert(state[me] == dead || owner != me);
fenced:
#ifdef KEEPS_MEMORY
    atomic {
        if
        :: joined < INCARNATIONS -> joined++; me = joined; state[me] = alive; goto serve
        :: else -> goto over
        fi
    }
#else
    holds = false;
    again = false;
    next = 0;
    goto join;
#endif
over:
    skip
}

init {
    byte i;
    atomic {
        for (i : 1 .. PROCESSES) {
            run worker()
        }
    }
}
