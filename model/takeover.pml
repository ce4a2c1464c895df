/*
 * How a SKU's seller is replaced while it may still be working.
 *
 * Spin checks every run of this model. No order is lost or sold twice, and no
 * buyer is told "sold out" whose order stands, whoever pauses, crashes or is
 * wrongly taken for dead. The words are those of ARCHITECTURE.md.
 *
 * What stands for what
 *
 *   lock, lease   A tenure is one holding of the SKU's lock. Its number is its
 *                 fencing token. A tenure here never learns that its lease has
 *                 ended or that its key was deleted, and a new one may start at
 *                 any time. So all tenures may work at once, each at its own
 *                 pace. This is the worst that any lock server can do, and
 *                 etcd's queue itself is in lock.pml.
 *   pause, crash  A paused tenure takes its next step late. A crashed one never
 *                 takes it. Spin checks a property at every step of every run,
 *                 so it also checks every run that stops anywhere.
 *   MySQL         One stock row (fence, seq, units left) and the orders by key.
 *                 A packet takes effect in one step. Its answer may be missing:
 *                 then the packet has taken effect, or may later, or never will.
 *   forward       A request is one call of a buyer. Its forwarder sends a copy
 *                 to a tenure. A copy waits there until the tenure takes it into
 *                 a batch. Any view of who sells may be stale, so a request may
 *                 go to any tenure that is not older than the one before.
 *   re-send       The forwarder may send the request again, under the same key,
 *                 on a new link. It then ignores answers on the older link, and
 *                 the seller drops copies that came on that link.
 *   lost message  A copy or an answer that is never read.
 *   take-over     A newer tenure starts, and claims the row.
 *
 * A buyer may also give up and call again with the same key, and an order may be
 * cancelled, which returns its unit.
 *
 * What is checked (every assert below)
 *
 *   - Units left never fall below 0, and a buyer has at most one order.
 *   - A buyer whose call is answered "ordered" has an order.
 *   - A buyer is told "sold out" only if all units were gone at some time during
 *     the call, and no order of that buyer stood before it.
 *   - A buyer who was told "sold out" has no order and gets none later, unless
 *     they gave up on an earlier call.
 *   - The tokens that MySQL admits never fall.
 *   - Once a tenure has read the row, no older tenure writes it.
 *   - When nothing more can happen, each request that was sent to the newest
 *     tenure has its answer. With -DNP and pan -l: there is no endless run, so
 *     that the end always comes.
 *
 * To check it by hand:
 *
 *   spin -a takeover.pml && gcc -O2 -w -DSAFETY -DCOLLAPSE -o pan pan.c && ./pan -E -m100000
 *
 * The macros below bound the model. Two things make it smaller than the service:
 * there are two buyers, and a refusal is sent in the step that compares the row.
 *
 * Mutants: each of these macros (spin -a -DNO_CLAIM takeover.pml) removes one
 * rule, and Spin must then find a run that breaks a property.
 *
 *   NO_CLAIM      a tenure does not claim, and writes do not compare the fence
 *   CLAIM_AFTER   a tenure claims after it has read the row
 *   WRITE_ONLY    a tenure does not claim; writes compare the fence and set it
 *   NO_SEQ        writes and refusals do not compare seq
 *   NO_SETTLE     after an unknown commit the tenure reads the orders without moving seq
 *   NO_CHECK      a refusal does not compare the row first
 *   NEW_KEY       a request is sent again under a new key
 *   EARLY_ANSWER  orders are answered before the commit
 *   KEYS_EARLY    the keys of the SKU's orders are read before the claim
 *   CARRY         copies for one tenure stay for the next one
 *   RESEND_OLDER  a request is sent again to an older tenure
 *   OLD_LINK      the seller keeps copies that came on a replaced link
 *   OLD_ANSWERS   the forwarder takes answers from a link that it has given up
 *
 * What each rule is for: NO_EXCLUSIVE drops the property "no older tenure
 * writes". Without it CLAIM_AFTER holds, and so does SEQ_ONLY, in which tenures
 * claim and nothing compares the fence. So seq keeps the orders safe, and the claim
 * makes one tenure the only writer. CHECK_SEQ, in which a refusal compares seq and not
 * the fence, holds with all properties.
 *
 * The lines with "step" print nothing during a check. In a replay (spin -t) they
 * tell the run in words, and picture_test.go draws some.
 */
#ifndef TENURES
#define TENURES 2	/* tokens 1 to TENURES */
#endif
#ifndef CALLS
#define CALLS 2		/* calls of buyer 0 with one key; buyer 1 calls once */
#endif
#ifndef SENDS
#define SENDS 2		/* times that a request of buyer 0 is sent */
#endif
#ifndef SENDS1
#define SENDS1 1	/* times that the request of buyer 1 is sent */
#endif
#ifndef UNITS
#define UNITS 1
#endif
#ifndef CANCELS
#define CANCELS 1
#endif
#ifndef UNKNOWN
#define UNKNOWN 1	/* commits whose answer is missing */
#endif

#define BIT(i) (1 << (i))
#define NONE 0
#define ORDERED 1
#define SOLD_OUT 2
#define COUNT(set) (((set) & 1) + (((set) >> 1) & 1) + (((set) >> 2) & 1) + (((set) >> 3) & 1))

/* MySQL: the row, the keys that have an order, and those whose order was cancelled. */
byte fence, seq, left = UNITS, orders, cancelled;
/* How often something may still go wrong. */
byte cancels = CANCELS, unknown = UNKNOWN;

/* Requests 0 and 1 are the calls of buyer 0, request 2 is the call of buyer 1. */
#define REQUESTS 3
#define BUYER(r) ((r) / 2)
/* Of each request: the set of tenures at which a copy waits, the number of its
   newest link, the tenure that this link leads to, and what was answered. */
byte copies[REQUESTS], link[REQUESTS], linkTo[REQUESTS], answer[REQUESTS];

/* Packets without an answer that may still arrive, by tenure: the seq that they
   compare, and their orders. */
byte lateSeq[TENURES + 1], lateKeys[TENURES + 1];

/* What an observer notes, for the properties: the buyers who were told "sold out"
   and never gave up, the buyers during whose call units have always been left, the
   newest tenure that has read the row, and the newest that has written it. */
byte told, unitsLeft, newestReader, newestWriter;

/* A request counts as answered if it was never sent, or its buyer has gone, or it was
   sent to an older tenure. */
#define SETTLED(r) (link[r] == 0 || link[r] > SENDS || linkTo[r] < TENURES || answer[r] != NONE)

/* The rules, and what each mutant makes of them. */
#ifdef NEW_KEY
#define KEY(k) ((via[k] > 1) -> BIT((k) + 2) : BIT(k))
#else
#define KEY(k) BIT(k)
#endif
#ifdef CARRY
#define HERE (BIT(t + 1) - 1)
#else
#define HERE BIT(t)
#endif
#ifdef RESEND_OLDER
#define OLDEST 1
#else
#define OLDEST ((linkTo[r] > 1) -> linkTo[r] : 1)
#endif
#if defined(SEQ_ONLY) || defined(NO_CLAIM)
#define FENCE_ADMITS(t) true
#elif defined(WRITE_ONLY)
#define FENCE_ADMITS(t) (fence <= t)
#else
#define FENCE_ADMITS(t) (fence == t)
#endif
#ifdef CHECK_SEQ
#define FENCE_ADMITS_REFUSAL(t) true
#else
#define FENCE_ADMITS_REFUSAL(t) FENCE_ADMITS(t)
#endif
#ifdef NO_SEQ
#define SEQ_IS(s) true
#else
#define SEQ_IS(s) (seq == s)
#endif
#define ADMITS(t, s, keys) (FENCE_ADMITS(t) && SEQ_IS(s) && left >= COUNT(keys))
#ifdef NO_SETTLE
#define SETTLE skip
#else
#define SETTLE seq++
#endif
#ifdef OLD_ANSWERS
#define LINK_IS_NEWEST(k) true
#else
#define LINK_IS_NEWEST(k) (linkTo[taken[k] - 1] == t && link[taken[k] - 1] == via[k])
#endif

/* A write that MySQL admits: of tenure T, orders with these keys. */
inline write(T, keys) {
	assert((keys & orders) == 0 && left >= COUNT(keys));
	left = left - COUNT(keys); seq++; orders = orders | keys;
#ifdef WRITE_ONLY
	fence = T;
#endif
	printf("step tenure%d -> mysql: sell to buyers %d, %d left, seq %d, fence %d\n", T, keys, left, seq, fence);
#ifdef NO_EXCLUSIVE
	assert(T >= newestWriter); newestWriter = T;
#else
	assert(T >= newestReader);	/* who writes has read: tokens do not fall, either */
#endif
	assert((told & keys) == 0);
	assert((orders & (orders >> 2)) == 0);
	if :: left == 0 -> unitsLeft = 0 :: else fi
}

/* ---- A tenure ----

   In memory it has the row's seq and units, and keys that have an order: all of
   them once complete is set. A batch has at most one request of each buyer k:
   taken[k] is its index plus one, via[k] its link. */

/* Buyer k's request leaves the batch with an answer, on the link that it came on. */
inline tell(k, what) {
	if
	:: taken[k] != 0 && LINK_IS_NEWEST(k) -> answer[taken[k] - 1] = what;
		printf("step tenure%d -> buyer%d: answer %d\n", t, k, what)
	:: else
	fi;
	taken[k] = 0; via[k] = 0
}
inline tellThose(set, what) {
	if :: taken[0] != 0 && (KEY(0) & (set)) -> tell(0, what) :: else fi;
	if :: taken[1] != 0 && (KEY(1) & (set)) -> tell(1, what) :: else fi
}

/* Buyer k's request leaves the batch and waits again here, unless its link was replaced. */
inline putBack(k) {
	if
	:: taken[k] != 0 && (linkTo[taken[k] - 1] != t || link[taken[k] - 1] == via[k]) ->
		copies[taken[k] - 1] = copies[taken[k] - 1] | BIT(t)
	:: else
	fi;
	taken[k] = 0; via[k] = 0
}
inline putAllBack() { putBack(0); putBack(1); accepted = 0; refused = 0 }

inline take(r) {
	taken[BUYER(r)] = r + 1;
#ifndef OLD_LINK
	copies[r] = copies[r] & ~(HERE);
#endif
	if :: linkTo[r] == t -> via[BUYER(r)] = link[r] :: else fi
}

/* From memory: a replay is answered, else the order is accepted or refused. */
inline decide(k) {
	if
	:: taken[k] == 0
	:: taken[k] != 0 && (known & KEY(k)) -> tell(k, ORDERED)
	:: taken[k] != 0 && !(known & KEY(k)) ->
		if
		:: myUnits > COUNT(accepted) -> accepted = accepted | KEY(k)
		:: else -> refused = refused | KEY(k)
		fi
	fi
}

inline claim() {
	if
	:: fence < t -> fence = t; printf("step tenure%d -> mysql: claim, fence %d\n", t, fence)
	:: else
	fi
}

proctype Tenure(byte t) {
	byte mySeq, myUnits, known, accepted, refused, taken[2], via[2];
	bit complete;
#ifdef KEYS_EARLY
	if :: known = orders; complete = 1 :: true fi;
#endif
begin:
#if !defined(NO_CLAIM) && !defined(WRITE_ONLY) && !defined(CLAIM_AFTER)
	atomic { claim() }
#endif
	atomic {
		if
		:: fence > t -> goto gone
		:: else -> mySeq = seq; myUnits = left; newestReader = (newestReader > t -> newestReader : t);
			printf("step tenure%d -> mysql: read, %d left, seq %d\n", t, left, seq)
		fi
	}
#ifdef CLAIM_AFTER
	atomic { claim() }
#endif
serve:	do
	:: atomic { (copies[0] | copies[1] | copies[2]) & HERE ->
		if
		:: d_step { copies[0] & HERE -> take(0) }
		:: d_step { copies[1] & HERE -> take(1) }
		:: d_step { copies[2] & HERE -> take(2) }
		:: d_step { (copies[0] & HERE) && (copies[2] & HERE) -> take(0); take(2) }
		:: d_step { (copies[1] & HERE) && (copies[2] & HERE) -> take(1); take(2) }
		fi;
		d_step { decide(0); decide(1) };
#ifdef EARLY_ANSWER
		d_step { tellThose(accepted, ORDERED) };
#endif
		if :: accepted == 0 -> goto refuse :: else fi }
		/* The batch's packet. */
		if
		:: atomic {
			if
			:: !ADMITS(t, mySeq, accepted) ->
				d_step { printf("step tenure%d -> mysql: stopped, seq %d, fence %d\n", t, seq, fence);
					putAllBack(); mySeq = 0; myUnits = 0 };
				goto begin
			:: else ->
				if
				:: accepted & orders ->	/* the unique index: replays */
					d_step { known = known | (accepted & orders); tellThose(known, ORDERED); putAllBack() };
					goto serve
				:: else ->
					d_step { write(t, accepted);
						known = known | accepted; mySeq++; myUnits = myUnits - COUNT(accepted);
						tellThose(accepted, ORDERED); accepted = 0 };
					goto refuse
				fi
			fi }
		:: atomic { unknown > 0 -> unknown--;	/* no answer: it took effect, or is late */
			if
			:: ADMITS(t, mySeq, accepted) && !(accepted & orders) -> d_step { write(t, accepted) }
			:: lateSeq[t] = mySeq; lateKeys[t] = accepted
			fi }
			/* Settle it: docs/decisions/0001. A tenure that gives up here (504) takes no further step. */
			d_step { SETTLE; accepted = accepted & orders; known = known | accepted; tellThose(accepted, ORDERED);
				printf("step tenure%d -> mysql: settle, seq %d\n", t, seq);
				putAllBack(); mySeq = 0; myUnits = 0 };
			goto begin
		fi;
		/* Refusals: read the keys once, then compare the row. */
refuse:		if
		:: atomic { refused == 0 -> goto serve }
		:: atomic { refused != 0 ->
			d_step { if :: !complete -> known = known | orders; complete = 1 :: else fi;
				tellThose(known, ORDERED); refused = 0 };
			if :: taken[0] == 0 && taken[1] == 0 -> goto serve :: else fi }
		fi;
#ifndef NO_CHECK
		atomic {
			if
			:: seq == mySeq && FENCE_ADMITS_REFUSAL(t) ->
				printf("step tenure%d -> mysql: compare, seq %d\n", t, seq)
			:: else -> d_step { putBack(0); putBack(1); mySeq = 0; myUnits = 0 }; goto begin
			fi;
#ifndef OLD_ANSWERS
			d_step { tell(0, SOLD_OUT); tell(1, SOLD_OUT) }
#endif
		}
#endif
#if defined(NO_CHECK) || defined(OLD_ANSWERS)
		d_step { tell(0, SOLD_OUT); tell(1, SOLD_OUT) }
#endif
	od;
gone:	atomic { mySeq = 0; myUnits = 0; known = 0; complete = 0; accepted = 0; refused = 0 }
}

/* ---- Late packets, cancellations, and the end ---- */

inline arrive(T) {
	if
	:: ADMITS(T, lateSeq[T], lateKeys[T]) && !(lateKeys[T] & orders) -> write(T, lateKeys[T])
	:: else
	fi;
	lateKeys[T] = 0; lateSeq[T] = 0
}
inline cancel(k) {
	cancelled = cancelled | BIT(k); left++; seq++; cancels--;
	printf("step buyer%d -> mysql: cancel, %d left, seq %d\n", k, left, seq)
}
active proctype World() {
end:	do
	:: d_step { lateKeys[1] != 0 -> arrive(1) }
	:: d_step { lateKeys[2] != 0 -> arrive(2) }
#if TENURES > 2
	:: d_step { lateKeys[3] != 0 -> arrive(3) }
#endif
	:: d_step { cancels > 0 && (orders & ~cancelled & 1) -> cancel(0) }
	:: d_step { cancels > 0 && (orders & ~cancelled & 2) -> cancel(1) }
	:: timeout ->	/* nothing else can happen */
		assert(SETTLED(0) && SETTLED(1) && SETTLED(2)); break
	od
}

/* ---- A buyer, and the forwarder of their request r ---- */

inline send() {
	if
	:: OLDEST <= 1 -> linkTo[r] = 1
	:: OLDEST <= 2 -> linkTo[r] = 2
#if TENURES > 2
	:: linkTo[r] = 3
#endif
	fi;
	copies[r] = copies[r] | BIT(linkTo[r]); link[r] = link[r] + 1; answer[r] = NONE;
	printf("step buyer%d -> tenure%d: order, call %d, link %d\n", k, linkTo[r], r, link[r])
}
proctype Buyer(byte k, calls) {
	byte r;
	bit stood, gaveUp;	/* an order stood before this call; an earlier call was given up */
	if :: k == 1 -> r = 2 :: else fi;
call:
	atomic { calls--; told = told & ~BIT(k);
		if :: left > 0 -> unitsLeft = unitsLeft | BIT(k) :: else fi;
		stood = (orders >> k) & 1;
		send() }
	do
	:: atomic { answer[r] == ORDERED -> assert((orders | (orders >> 2)) & BIT(k)); break }
	:: atomic { answer[r] == SOLD_OUT ->
		assert(!stood);
		assert(!(unitsLeft & BIT(k)));
		assert(gaveUp || !((orders | (orders >> 2)) & BIT(k)));
		if :: !gaveUp -> told = told | BIT(k) :: else fi;
		break }
	:: atomic { link[r] < ((k == 0) -> SENDS : SENDS1) -> send() }
	:: atomic { calls > 0 -> gaveUp = 1; unitsLeft = unitsLeft & ~BIT(k); r++; goto call }
	od;
	atomic { answer[r] = NONE; link[r] = SENDS + 1; unitsLeft = unitsLeft & ~BIT(k);
		if :: calls > 0 -> r++; goto call :: true fi;
		r = 0; calls = 0; stood = 0; gaveUp = 0 }
}

init { atomic {
	byte t = 1; do :: t <= TENURES -> run Tenure(t); t++ :: else -> break od;
	run Buyer(0, CALLS); run Buyer(1, 1) } }
