/* move.pml: how Waypost moves a user, as a model that spin checks.
 *
 * One user, NB backends, two movers, NM messages that mx tiers deliver from
 * stale memories, and (with -DSESSION) one client session that a proxy carries.
 * Crashes, false expiries, lost replies and moves are counted and run out, so
 * that every run ends: what must hold in the end is looked at by Judge, when
 * nothing can happen any more.
 *
 * The rules R1 to R8 are those of the design. Each can be switched off by -DNO_x
 * (the list is in README.md), and then spin finds the harm.
 *
 * Lines of the forms WHEN(..), NEXT(..) and RECORD(..) are the transition table.
 * TestModelIsTheCode in deploy/simtest reads them, and holds them against
 * fence.Reconcile, rebalance.Next and the transitions of director.Record.
 */
#ifndef NB
#define NB 2            /* backends */
#endif
#ifndef NM
#define NM 1            /* messages; 0, 1 or 2 */
#endif
#ifndef MOVES
#define MOVES 2         /* moves that somebody plans */
#endif
#ifndef DEATHS
#define DEATHS 1        /* crashes of movers */
#endif
#ifndef EXPIRE
#define EXPIRE 1        /* leases that expire though their mover lives */
#endif
#ifndef CRASHES
#define CRASHES 1       /* crashes of backends */
#endif
#ifndef LOSSES
#define LOSSES 1        /* replies to deliveries that get lost */
#endif
#ifndef CUTS
#define CUTS 1          /* replies to a session's RESUME that get lost */
#endif
#ifndef RESTORES
#define RESTORES 0      /* restores of the directory (R10) */
#endif
#define ALL ((1<<NM)-1)
#define NOBODY 9

/* ---- the directory: one location record and one journal, linearizable ---- */
#define Active 0
#define Busy 1
byte home = 0, epoch = 1, state = Active, peer = 0;

/* Phases of the journal, as director.MovePhase. */
#define Planned 0
#define Copying 1
#define Marked  2       /* director.PhaseBusy */
#define Frozen_ 3       /* director.PhaseFrozen */
#define Sealed_ 4       /* director.PhaseSealed */
#define Flipped 5
#define Done    6
#define Undone  7
bit  open = 0;          /* the journal is of an unfinished move */
byte jid = 0, jphase = Done, jsrc = 0, jtgt = 0, jepoch = 0;
byte jman = 0, jids = 0;   /* the receipt: what the frozen source held */
byte owner = NOBODY;       /* move-owner: economy only (R8) */
bit  ownerdead = 0;
byte dead = 0;             /* movers that never come back */

/* The transitions of a record, each to the next epoch (R6: guarded, so they are
 * one atomic step): from state, to state, new home, new peer. */
#define RECORD(from, to, h, p)  state == from -> home = h; peer = p; state = to; epoch++
#define NONE 0
inline mark_busy(target) { if :: RECORD(Active, Busy, home, target) fi }
inline flip_record()     { if :: RECORD(Busy, Active, peer, NONE) fi }
inline roll_back()       { if :: RECORD(Busy, Active, home, NONE) fi }

/* ---- the backends' disks: what survives their crashes ---- */
#define Gone     0
#define Serving  1
#define Frozen   2
#define Incoming 3
#define Sealed   4
byte fs[NB], fe[NB];         /* the fence: state and epoch; never copied (R2) */
bit  has[NB], staged[NB];    /* is there a live tree, a staging tree? */
byte live[NB], ids[NB];      /* the live tree: messages, delivery ids */
byte stg[NB], sids[NB];      /* staging: the same */
/* ---- and their memory ---- */
bit  lock[NB];               /* a fence's change is under way, under the user's lock */
bit  newer[NB];              /* a decision is about to be done, and the fence changed since */

byte acked = 0;              /* messages that the sender got a 250 for */
byte moves = MOVES, deaths = DEATHS, expire = EXPIRE, crashes = CRASHES, losses = LOSSES;

/* I1: one writer. */
#if NB == 3
#define ONE_WRITER assert((fs[0]==Serving) + (fs[1]==Serving) + (fs[2]==Serving) <= 1)
#else
#define ONE_WRITER assert((fs[0]==Serving) + (fs[1]==Serving) <= 1)
#endif
inline set_fence(b, s, e) { d_step { fs[b] = s; fe[b] = e; newer[b] = 1; ONE_WRITER } }

/* take_staging is the rename of adoption. A second one after a crash finds
 * staging gone, and is done. */
inline take_staging(b) {
    if
    :: staged[b] ->
        assert((acked & ~stg[b]) == 0);      /* I2: the new home has whatever was acknowledged */
        live[b] = stg[b]; ids[b] = sids[b]; has[b] = 1;
        stg[b] = 0; sids[b] = 0; staged[b] = 0
    :: else
#ifdef NO_FINISH        /* does not know its own half-done work */
        -> assert(false)
#endif
    fi
}

/* ---- one client's session, carried by a proxy ----
 * It lives at a backend, is parked at the proxy as a state, or has ended with
 * BYE. The client has one command to give that must not be done twice.
 *
 * A state without a command that was begun is quiet: it is not accepted, and is
 * tried again where the outcome of its resume is unknown. What may be left of the
 * first try is deaf: its proxy is not there, so it hears no client and does
 * nothing. The next one that comes there ends it, or the fence. */
#ifdef SESSION
#define PROXY_LIVE 0
#define PROXY_PARKED 1
#define PROXY_ASKING 2
#define PROXY_BYE 3
bit  at[NB];            /* a session lives here */
bit  mine[NB];          /* by the latest RESUME */
bit  since[NB];         /* by a later RESUME than the late one, below */
bit  deaf[NB];          /* it is quiet, and its proxy has not got its Welcome */
bit  left[NB];          /* another one of the same client that should have been ended */
bit  todo[NB];          /* it has a command that is not done yet */
byte taken[NB];         /* ids that were accepted here, durably, as bits */
byte proxy = PROXY_LIVE, parked = 0;    /* the state at the proxy: its id, 0 if it is quiet */
byte with = 0;          /* where the proxy has it live, or asks */
byte lastid = 0;
byte view = 0;          /* the messages the client was told of */
bit  started = 0;                       /* the client has given its command */
bit  parkedtodo = 0;                    /* not yet done, says the state at the proxy */
byte ran = 0;                           /* how often it was done */
bit  harmed = 0;                        /* a crash or a cut that may cost a session */
byte cuts = CUTS;
/* A RESUME that its proxy has given up, and that has not come to the backend yet. */
bit  late = 0; byte lplace = 0, lepoch = 0, lid = 0; bit ltodo = 0;
#define NOT_LATE d_step { late = 0; lplace = 0; lepoch = 0; lid = 0; ltodo = 0; since[0] = 0; since[1] = 0 }

#ifdef NO_QUIET         /* the strict protocol: every id is accepted */
#define QUIET(todo) false
#else
#ifdef NO_REST          /* takes for quiet what is not */
#define QUIET(todo) true
#else
#define QUIET(todo) (todo == 0)
#endif
#endif
#ifdef NO_ONCE
#define FRESH(x, id) true
#else
#define FRESH(x, id) (taken[x] & (1 << id)) == 0     /* accepted once, durably */
#endif
#define AT(b) (at[b] && !deaf[b])
#define ONE_PLACE assert(AT(0) + AT(1) + (proxy == PROXY_PARKED) <= 1)
#define ENDED(b) d_step { at[b] = 0; mine[b] = 0; since[b] = 0; deaf[b] = 0; todo[b] = 0 }
#define PARK(cmd) d_step { proxy = PROXY_PARKED; parkedtodo = cmd; if :: QUIET(cmd) -> parked = 0 :: else -> lastid++; parked = lastid fi }

/* arrives is a session's coming to x, when its fence lets it. */
inline arrives(x, id, cmd) {
    assert(home == x);                              /* only at the home */
    assert((view & ~live[x]) == 0);                 /* never a wrong view */
    if
#ifdef NO_FORMER        /* does not look whether it is there already */
    :: at[x] && deaf[x] -> left[x] = 1
    :: else
#else
    :: else                                         /* the former one is ended */
#endif
    fi;
    if :: QUIET(cmd) -> deaf[x] = 1 :: else -> taken[x] = taken[x] | (1 << id); deaf[x] = 0 fi;
    at[x] = 1; todo[x] = cmd
}

inline hand_off(b) {
    if
    :: proxy == PROXY_LIVE && with == b && mine[b] -> PARK(todo[b])
    :: else /* the proxy has given it up: nobody takes the state */
    fi;
    ENDED(b); left[b] = 0;
    ONE_PLACE
}
/* The backend dies. What the client knows is its last checkpoint, if nothing was
 * under way since; otherwise nobody can say what it saw. */
inline crash_sessions(b) {
    if
    :: late && lplace == b -> NOT_LATE   /* its connection has gone */
    :: else
    fi;
    if
    :: at[b] ->
        if
        :: proxy == PROXY_LIVE && with == b && !todo[b] -> PARK(0)
        :: proxy == PROXY_LIVE && with == b && todo[b] -> proxy = PROXY_BYE; harmed = 1
        :: else     /* asking: see there */
        fi; ENDED(b)
    :: else
    fi; left[b] = 0
}

#else
#define crash_sessions(b) skip
#endif

/* ---- a backend: R3 and R4 ----
 * It reads the record, decides by the table, and does what the table says if its
 * fence is still the one it decided about. Each action is a rename (or none) and
 * then the fence, with a crash possible between; the next look finishes it. */
#define Me     (home == b)
#define Other  (home != b)
#define Above  (epoch > fe[b])
#define Equal  (epoch == fe[b])
#define Below  (epoch < fe[b])
#define WHEN(whose, rec, than, fence)  whose && state == rec && than && fs[b] == fence && !lock[b]
#define SERVE(minus)  next = epoch - minus; newer[b] = 0; goto serve
#define ADOPT(minus)  next = epoch - minus; newer[b] = 0; goto adopt
#define TRASH(minus)  next = epoch - minus; newer[b] = 0; goto trash
#define DROP(minus)   next = epoch - minus; newer[b] = 0; goto drop
/* An alarm: the table says that this cannot be. Nor can it, in the model. */
#define REFUSE(minus) assert(false)

/* Before a rename or a fence write: is the decision still about this fence? */
#define MAY  !lock[b] && !newer[b]
#define CRASH :: atomic { crashes > 0 -> crashes--; lock[b] = 0; REST; crash_sessions(b) } goto top
#define REST  d_step { next = 0; newer[b] = 1 }     /* nothing is being decided */

proctype Backend(byte b) {
    byte next;
top:
end_b: do
    /* R4, the table. Everything that is not here is kept as it is. */
    :: atomic { WHEN(Me,    Active, Above, Serving)  -> SERVE(0) }
    :: atomic { WHEN(Me,    Active, Above, Frozen)   -> SERVE(0) }
#ifdef NO_LATE      /* adopts only the very epoch that follows its seal */
    :: atomic { home == b && state == Active && epoch == fe[b]+1 && fs[b] == Sealed && !lock[b] -> ADOPT(0) }
#else
#ifdef NO_SEAL      /* any copy will do */
    :: atomic { home == b && state == Active && epoch > fe[b] && fs[b] == Incoming && !lock[b] -> ADOPT(0) }
#endif
    :: atomic { WHEN(Me,    Active, Above, Sealed)   -> ADOPT(0) }
    :: atomic { WHEN(Me,    Busy,   Above, Sealed)   -> ADOPT(1) }
#endif
    :: atomic { WHEN(Other, Active, Above, Frozen)   -> TRASH(0) }
    :: atomic { WHEN(Other, Busy,   Above, Frozen)   -> TRASH(0) }
    :: atomic { WHEN(Other, Active, Equal, Incoming) -> DROP(0) }
    :: atomic { WHEN(Other, Active, Above, Incoming) -> DROP(0) }
    :: atomic { WHEN(Other, Busy,   Above, Incoming) -> DROP(0) }
    :: atomic { WHEN(Other, Active, Equal, Sealed)   -> DROP(0) }
    :: atomic { WHEN(Other, Active, Above, Sealed)   -> DROP(0) }
    :: atomic { WHEN(Other, Busy,   Above, Sealed)   -> DROP(0) }
#ifndef NO_ALARM    /* what must never be seen in a run in which nothing was rolled back */
    :: atomic { WHEN(Me,    Active, Below, Serving)  -> REFUSE(0) }
    :: atomic { WHEN(Me,    Active, Below, Frozen)   -> REFUSE(0) }
    :: atomic { WHEN(Me,    Active, Below, Incoming) -> REFUSE(0) }
    :: atomic { WHEN(Me,    Active, Below, Sealed)   -> REFUSE(0) }
    :: atomic { WHEN(Me,    Active, Below, Gone)     -> REFUSE(0) }
    :: atomic { WHEN(Me,    Active, Equal, Frozen)   -> REFUSE(0) }
    :: atomic { WHEN(Me,    Active, Equal, Incoming) -> REFUSE(0) }
    :: atomic { WHEN(Me,    Active, Equal, Sealed)   -> REFUSE(0) }
    :: atomic { WHEN(Me,    Active, Equal, Gone)     -> REFUSE(0) }
    :: atomic { WHEN(Me,    Active, Above, Incoming) -> REFUSE(0) }
    :: atomic { WHEN(Me,    Active, Above, Gone)     -> REFUSE(0) }
    :: atomic { WHEN(Me,    Busy,   Below, Serving)  -> REFUSE(0) }
    :: atomic { WHEN(Me,    Busy,   Below, Frozen)   -> REFUSE(0) }
    :: atomic { WHEN(Me,    Busy,   Below, Incoming) -> REFUSE(0) }
    :: atomic { WHEN(Me,    Busy,   Below, Sealed)   -> REFUSE(0) }
    :: atomic { WHEN(Me,    Busy,   Below, Gone)     -> REFUSE(0) }
    :: atomic { WHEN(Me,    Busy,   Equal, Incoming) -> REFUSE(0) }
    :: atomic { WHEN(Me,    Busy,   Equal, Sealed)   -> REFUSE(0) }
    :: atomic { WHEN(Me,    Busy,   Equal, Gone)     -> REFUSE(0) }
    :: atomic { WHEN(Me,    Busy,   Above, Incoming) -> REFUSE(0) }
    :: atomic { WHEN(Me,    Busy,   Above, Gone)     -> REFUSE(0) }
    :: atomic { WHEN(Other, Active, Below, Serving)  -> REFUSE(0) }
    :: atomic { WHEN(Other, Active, Below, Frozen)   -> REFUSE(0) }
    :: atomic { WHEN(Other, Active, Equal, Serving)  -> REFUSE(0) }
    :: atomic { WHEN(Other, Active, Equal, Frozen)   -> REFUSE(0) }
    :: atomic { WHEN(Other, Active, Above, Serving)  -> REFUSE(0) }
    :: atomic { WHEN(Other, Busy,   Below, Serving)  -> REFUSE(0) }
    :: atomic { WHEN(Other, Busy,   Below, Frozen)   -> REFUSE(0) }
    :: atomic { WHEN(Other, Busy,   Equal, Serving)  -> REFUSE(0) }
    :: atomic { WHEN(Other, Busy,   Equal, Frozen)   -> REFUSE(0) }
    :: atomic { WHEN(Other, Busy,   Above, Serving)  -> REFUSE(0) }
#endif
#ifdef NO_OWNREAD   /* believes a front tier that tells it the epoch after the flip */
    :: atomic { state == Busy && peer == b && fs[b] == Sealed && fe[b] == epoch && !lock[b] -> next = epoch+1; newer[b] = 0; goto adopt }
#endif
    /* R7: the home takes back any busy record that names it, whatever its own
     * fence says. Time decides when, so in the model: at any time. */
#ifdef NO_TAKEBACK  /* only what it has frozen itself */
    :: atomic { Me && state == Busy && fs[b] == Frozen && fe[b] == epoch -> roll_back() }
#else
    :: atomic { Me && state == Busy -> roll_back() }
#endif
    /* A crash while nothing of this user is under way costs its sessions. */
#ifdef SESSION
    :: atomic { crashes > 0 && at[b] -> crashes--; crash_sessions(b) }
    /* R1 for sessions: fenced, it lets go of them, and starts no new command. */
    :: atomic { (at[b] || left[b]) && fs[b] != Serving && !(proxy == PROXY_ASKING && with == b) -> hand_off(b) }
#endif
    od;
serve:
    if
    :: atomic { MAY -> set_fence(b, Serving, next); REST }
    :: atomic { !lock[b] && newer[b] -> REST }
    fi; goto top;
adopt:  /* rename, then fence: after a crash between, staging is gone and the live tree is it */
    if
#ifdef FENCE_FIRST  /* the wrong order */
    :: atomic { MAY -> lock[b] = 1; set_fence(b, Serving, next) }
#else
    :: atomic { MAY -> lock[b] = 1; take_staging(b) }
#endif
    :: atomic { !lock[b] && newer[b] -> REST; goto top }
    fi;
    if
#ifdef FENCE_FIRST
    :: atomic { take_staging(b); lock[b] = 0; REST }
#else
    :: atomic { assert(has[b]); set_fence(b, Serving, next); lock[b] = 0; REST }
#endif
    CRASH
    fi; goto top;
trash:  /* the live tree goes by a rename, then the fence */
    if
    :: atomic { MAY -> lock[b] = 1; has[b] = 0; live[b] = 0; ids[b] = 0 }
    :: atomic { !lock[b] && newer[b] -> REST; goto top }
    fi;
    if :: atomic { set_fence(b, Gone, next); lock[b] = 0; REST } CRASH fi; goto top;
drop:   /* staging goes, then the fence */
    if
    :: atomic { MAY -> lock[b] = 1; staged[b] = 0; stg[b] = 0; sids[b] = 0 }
    :: atomic { !lock[b] && newer[b] -> REST; goto top }
    fi;
    if :: atomic { set_fence(b, Gone, next); lock[b] = 0; REST } CRASH fi; goto top
}

/* ---- a mover: rebalance.Next, and its steps ----
 * It reads journal and record, and decides by them alone what comes next. Any
 * number of movers may be at one move: a lease that expired tells its mover late. */
#define Before  (home == jsrc && epoch == jepoch && state == Active)
#define Mine    (home == jsrc && epoch == jepoch+1 && state == Busy && peer == jtgt)
#define Else    !(Before) && !(Mine)
#define NEXT(phase, record)  jphase == phase && record
#define FORGET  d_step { id = 0; src = 0; tgt = 0; e = 0; man = 0; mi = 0 }
#define READ    d_step { id = jid; src = jsrc; tgt = jtgt; e = jepoch; man = jman; mi = jids }
/* Advance (R6): the journal is of the same move and the record is the one read. */
#define SAME    open && jid == id && home == src
#define ACTIVE  SAME && epoch == e && state == Active
#define BUSY    SAME && epoch == e+1 && state == Busy && peer == tgt
#define CLOSE   d_step { open = 0; jphase = Done; jsrc = 0; jtgt = 0; jepoch = 0; jman = 0; jids = 0; owner = NOBODY; ownerdead = 0 }
#define DIE     :: atomic { deaths > 0 -> deaths--; if :: owner == me -> ownerdead = 1 :: else fi; FORGET; if :: goto idle :: dead++; goto gone fi }

#ifdef NO_EXACT     /* control calls that do not name the epoch of their move */
#define STAGEABLE  (fs[tgt] == Gone || fs[tgt] == Incoming || fs[tgt] == Sealed)
#define FILLING    fs[tgt] == Incoming
#define SEALED     fs[tgt] == Sealed
#define TRUSTS     :: atomic { fs[src] == Serving || fs[src] == Frozen -> set_fence(src, Gone, e+2); has[src] = 0; live[src] = 0; ids[src] = 0 }
#else
#define STAGEABLE  ((fs[tgt] == Gone || fs[tgt] == Incoming) && fe[tgt] <= e+1)
#define FILLING    fs[tgt] == Incoming && fe[tgt] == e+1
#define SEALED     fs[tgt] == Sealed && fe[tgt] == e+1
#endif
#ifdef NO_IDS       /* delivery ids do not move with the messages */
#define COPY_IDS   skip
#define SAME_IDS   true
#else
#define COPY_IDS   sids[tgt] = ids[src]
#define SAME_IDS   sids[tgt] == mi
#endif

proctype Mover(byte me) {
    byte id, src, tgt, e, man, mi;
idle:
end_m: do
    /* Somebody plans a move, and this mover claims it. */
    :: atomic { !open && moves > 0 && state == Active ->
           moves--; jid++; open = 1; jphase = Planned; jsrc = home; jepoch = epoch; jman = 0; jids = 0;
           if
           :: jtgt = (home+1) % NB
#if NB == 3
           :: jtgt = (home+2) % NB
#endif
           fi;
           owner = me; ownerdead = 0 } goto work
    /* Take-over: the owner is dead, or its lease is thought to be. */
    :: atomic { open && owner != NOBODY && ownerdead -> owner = me; ownerdead = 0 } goto work
    :: atomic { open && owner != NOBODY && owner != me && !ownerdead && expire > 0 -> expire--; owner = me } goto work
    od;
work:
    if
    :: atomic { !open -> goto idle }
    :: atomic { open && owner != me -> goto idle }  /* it noticed */
    /* rebalance.Next: the phase in the journal, the record */
    :: atomic { NEXT(Planned, Before) && open -> READ; goto copy }
    :: atomic { NEXT(Copying, Before) && open -> READ; goto copy }
    :: atomic { NEXT(Marked,  Before) && open -> READ; goto copy }
    :: atomic { NEXT(Frozen_, Before) && open -> READ; goto copy }
    :: atomic { NEXT(Sealed_, Before) && open -> READ; goto copy }
    :: atomic { NEXT(Planned, Mine)   && open -> READ; goto freeze }
    :: atomic { NEXT(Copying, Mine)   && open -> READ; goto freeze }
    :: atomic { NEXT(Marked,  Mine)   && open -> READ; goto freeze }
    :: atomic { NEXT(Frozen_, Mine)   && open -> READ; goto seal }
    :: atomic { NEXT(Sealed_, Mine)   && open -> READ; goto flip }
    :: atomic { NEXT(Planned, Else)   && open -> READ; goto undone }
    :: atomic { NEXT(Copying, Else)   && open -> READ; goto undone }
    :: atomic { NEXT(Marked,  Else)   && open -> READ; goto undone }
    :: atomic { NEXT(Frozen_, Else)   && open -> READ; goto undone }
    :: atomic { NEXT(Sealed_, Else)   && open -> READ; goto undone }
    :: atomic { NEXT(Flipped, Before) && open -> READ; goto finish }
    :: atomic { NEXT(Flipped, Mine)   && open -> READ; goto finish }
    :: atomic { NEXT(Flipped, Else)   && open -> READ; goto finish }
    :: atomic { NEXT(Done,    Before) && open -> goto none }
    :: atomic { NEXT(Done,    Mine)   && open -> goto none }
    :: atomic { NEXT(Done,    Else)   && open -> goto none }
    :: atomic { NEXT(Undone,  Before) && open -> goto none }
    :: atomic { NEXT(Undone,  Mine)   && open -> goto none }
    :: atomic { NEXT(Undone,  Else)   && open -> goto none }
    DIE
    fi;
copy:   /* the target takes staging for exactly this move, and a hot copy into it */
    if
    :: atomic { !lock[tgt] && STAGEABLE -> set_fence(tgt, Incoming, e+1); staged[tgt] = 1; stg[tgt] = live[src]; sids[tgt] = 0 }
    :: atomic { !lock[tgt] && SEALED -> skip }
    :: atomic { !(STAGEABLE) && !(SEALED) -> goto work_or_undo }
    DIE
    fi;
busy:
    if
    :: atomic { if :: ACTIVE -> mark_busy(tgt); jphase = Marked :: else fi; FORGET; goto work }
    DIE
    fi;
freeze: /* no waiting for a DATA that is under way: it fails at its commit (R1) */
    if
    :: atomic { !lock[src] && (fs[src] == Serving || fs[src] == Frozen) && fe[src] < e+1 -> set_fence(src, Frozen, e+1); man = live[src]; mi = ids[src] }
    :: atomic { !lock[src] && fs[src] == Frozen && fe[src] == e+1 -> man = live[src]; mi = ids[src] }
    /* A home that was flipped to and has not adopted yet looks first. */
    :: atomic { (fs[src] == Gone || fs[src] == Incoming || fe[src] > e+1 || (fs[src] == Serving && fe[src] == e+1)) -> goto work_or_undo }
    DIE
    fi;
    if
    :: atomic { if :: BUSY -> jphase = Frozen_; jman = man; jids = mi :: else fi; FORGET; goto work }
    DIE
    fi;
seal:   /* the last difference. A pull is not atomic: staging has a half of it meanwhile. */
    if
    :: atomic { !lock[tgt] && FILLING -> stg[tgt] = 0; sids[tgt] = 0 }
    :: atomic { SEALED -> goto sealed }
    :: atomic { !(FILLING) && !(SEALED) -> goto work_or_undo }
    DIE
    fi;
    if
    :: atomic { !lock[tgt] && FILLING -> stg[tgt] = live[src]; COPY_IDS }
    :: atomic { !(FILLING) -> goto work_or_undo }
    DIE
    fi;
    /* R5: equal to the receipt in every entry; from here on staging never changes. */
    if
#ifdef NO_SEAL
    :: goto sealed
#else
    :: atomic { !lock[tgt] && FILLING && stg[tgt] == man && SAME_IDS -> set_fence(tgt, Sealed, e+1) }
    :: atomic { FILLING && !(stg[tgt] == man && SAME_IDS) -> goto work_or_undo }
    :: atomic { !(FILLING) && !(SEALED) -> goto work_or_undo }
    :: atomic { SEALED -> skip }
#endif
    DIE
    fi;
sealed:
    if
    :: atomic { if :: BUSY -> jphase = Sealed_ :: else fi; FORGET; goto work }
    DIE
    fi;
flip:   /* the one commit point; an unknown outcome is read again at work */
    if
    :: atomic { if :: BUSY -> flip_record(); jphase = Flipped :: else fi; FORGET; goto work }
    DIE
    fi;
finish: /* only forward: it waits until the target serves, or the user has moved on */
    if
#ifdef NO_EXACT     /* and takes the source's tree away, instead of telling it to look (R3) */
    TRUSTS
#endif
    :: atomic { fs[tgt] == Serving || epoch > e+2 || home != tgt -> if :: open && jid == id -> CLOSE :: else fi; FORGET }
    DIE
    fi; goto idle;
work_or_undo:   /* a step failed: look again, or give up */
    if
    :: atomic { open && jid == id && !(Mine) -> FORGET; goto work }
    :: goto undone
    fi;
undone: /* the move did not happen: roll back what is busy for it, close the journal */
    if
    :: atomic { if
        :: BUSY -> roll_back(); CLOSE
        :: open && jid == id && jphase != Flipped && !(BUSY) -> CLOSE
        :: else fi; FORGET; goto work }
    DIE
    fi;
none: goto idle;
gone: skip
}

/* commit writes message and delivery id in one durable step (I3). */
inline commit(h, m) {
    if
    :: ids[h] & m -> skip
    :: else -> assert((live[h] & m) == 0); live[h] = live[h] | m; ids[h] = ids[h] | m
    fi
}

/* ---- an mx: one message, delivered until its home has it for sure ----
 * Its memory may be behind for as long as it likes. R1: the home looks at the
 * fence at RCPT, and again under the user's lock at the commit. */
#if NM > 0
proctype MX(byte m) {
    byte h = 0, e = 1, x; bit s = 0;
    do
    :: atomic { e != epoch || h != home || s != state -> h = home; e = epoch; s = state }
    :: atomic { s == Active && fs[h] == Serving && fe[h] == e && !lock[h] -> x = e };
       if   /* DATA takes its time */
#ifdef NO_RECHECK
       :: atomic { !lock[h] -> commit(h, m) }
#else
       :: atomic { fs[h] == Serving && fe[h] == x && !lock[h] -> commit(h, m) }
       :: atomic { !(fs[h] == Serving && fe[h] == x) -> x = 0 }
#endif
       fi;
       if
       :: x == 0
       :: atomic { x != 0 -> acked = acked | m; x = 0; h = 0; e = 0; s = 0; goto fin }
       :: atomic { x != 0 && losses > 0 -> losses--; x = 0 }
       fi
    od;
fin: skip
}
#endif

/* ---- the session's proxy ---- */
#ifdef SESSION
#ifdef NO_BYE       /* an unknown outcome is tried again, whatever it is */
#define UNKNOWN proxy = PROXY_PARKED
#else
#define UNKNOWN if :: QUIET(parkedtodo) -> proxy = PROXY_PARKED :: else -> proxy = PROXY_BYE; parked = 0; harmed = 1 fi
#endif
proctype Proxy() {
    byte h = 0, e = 1; bit s = 0;
end_p: do
    :: atomic { proxy != PROXY_BYE && (e != epoch || h != home || s != state) -> h = home; e = epoch; s = state }
    /* The client gives its command; the backend it lives at executes it. */
    :: atomic { proxy == PROXY_LIVE && at[with] && !started -> started = 1; todo[with] = 1 }
    /* RESUME at the home that the memory names. */
    :: atomic { proxy == PROXY_PARKED && s == Active -> proxy = PROXY_ASKING; with = h; mine[0] = 0; mine[1] = 0 };
       if
       :: atomic { fs[with] == Serving && fe[with] == e && !lock[with] && (QUIET(parkedtodo) || FRESH(with, parked)) ->
              arrives(with, parked, parkedtodo); mine[with] = 1; since[with] = late };
          if
          :: atomic { mine[with] -> deaf[with] = 0; proxy = PROXY_LIVE; parked = 0; parkedtodo = 0; ONE_PLACE }
          /* The outcome stays unknown: a cut, or a crash. */
          :: atomic { !mine[with] || cuts > 0 -> if :: cuts > 0 -> cuts-- :: else fi; UNKNOWN }
          fi
       /* The same, and the backend has not even begun with it. */
       :: atomic { cuts > 0 && !late -> cuts--;
              late = 1; lplace = with; lepoch = e; lid = parked; ltodo = parkedtodo; UNKNOWN }
       :: atomic { !(fs[with] == Serving && fe[with] == e) -> proxy = PROXY_PARKED;
              if :: e != epoch || h != home || s != state -> h = home; e = epoch; s = state :: else fi }
       :: atomic { fs[with] == Serving && fe[with] == e && !lock[with] && !(QUIET(parkedtodo) || FRESH(with, parked)) -> proxy = PROXY_BYE; parked = 0; harmed = 1 }
       fi
    od
}

/* The session's place at a backend: it does the pending command, and tells the
 * client of new messages, while the fence serves. A session whose proxy is gone
 * ends when it notices. */
proctype Session(byte b) {
end_s: do
    :: atomic { at[b] && fs[b] == Serving && !lock[b] && todo[b] -> todo[b] = 0; ran++; assert(ran == 1) }
    :: atomic { at[b] && fs[b] == Serving && !lock[b] && proxy == PROXY_LIVE && with == b && !deaf[b] && view != live[b] ->
           assert((view & ~live[b]) == 0); view = live[b] }
    :: atomic { (at[b] || left[b]) && proxy == PROXY_BYE -> ENDED(b); left[b] = 0 }
    /* A RESUME that was given up comes after all. */
    :: atomic { late && lplace == b && !lock[b] ->
           if
           :: !(fs[b] == Serving && fe[b] == lepoch)
           :: fs[b] == Serving && fe[b] == lepoch && !(QUIET(ltodo) || FRESH(b, lid))
#ifdef NO_NEWER         /* ends whichever is there */
           :: fs[b] == Serving && fe[b] == lepoch && (QUIET(ltodo) || FRESH(b, lid)) && since[b] ->
                  if :: proxy == PROXY_LIVE && with == b -> proxy = PROXY_BYE :: else fi; arrives(b, lid, ltodo); mine[b] = 0; since[b] = 0
#else
           :: fs[b] == Serving && fe[b] == lepoch && since[b]
#endif
           :: fs[b] == Serving && fe[b] == lepoch && (QUIET(ltodo) || FRESH(b, lid)) && !since[b] -> arrives(b, lid, ltodo); mine[b] = 0; since[b] = 0
           fi; NOT_LATE }
    od
}
#endif

/* ---- R10: the directory is restored, while movers and mx may be anywhere ----
 * Every record goes above all epochs there are, journals are gone. A target that
 * was flipped to and had not looked yet sees a far higher epoch: R4 adopts at any. */
#if RESTORES > 0
proctype Restore() {
end_r:
    atomic { epoch = epoch+2; state = Active; peer = NONE; if :: open -> CLOSE :: else fi }
}
#endif

/* ---- when nothing can happen any more ---- */
proctype Judge() {
    timeout;
    /* I6: every move has ended; without any mover left, the user at least is not busy. */
    assert(state == Active && (!open || dead == 2));
    assert(acked == ALL);                           /* nobody waits for ever */
    assert(fs[home] == Serving && fe[home] == epoch);   /* the home serves */
    assert(has[home] && live[home] == ALL);         /* I2 */
#ifdef SESSION
    /* I5: without a crash or a cut link the session lives, at the home. */
    assert(harmed || (proxy == PROXY_LIVE && at[home]));
    assert(harmed || (started && ran == 1));
    assert(at[0] + at[1] + left[0] + left[1] <= 1);   /* nothing is left of it */
#endif
}

init { atomic {
    fs[0] = Serving; fe[0] = 1; has[0] = 1; newer[0] = 1; newer[1] = 1; newer[NB-1] = 1;
    run Backend(0); run Backend(1);
#if NB == 3
    run Backend(2);
#endif
#if NM > 0
    run MX(1);
#endif
#if NM > 1
    run MX(2);
#endif
    run Mover(0); run Mover(1);
#ifdef SESSION
    at[0] = 1; mine[0] = 1;
    run Proxy(); run Session(0); run Session(1);
#endif
#if RESTORES > 0
    run Restore();
#endif
    run Judge();
} }
