/*
 * The queue for a SKU's lock in etcd, and how a lock is taken from its holder.
 *
 * A replica queues by creating a key. The key's create revision is its place in the
 * queue and, once the key is first, the fencing token of its tenure. A key is deleted
 * by a release, by the end of its lease, or by a replica that takes the lock over.
 * That replica queues first. Then it deletes the first key if this is still the key
 * that it saw. takeover.pml has what follows in MySQL; here it is only the fence.
 *
 * A replica hears heartbeats from the seller, which may all be lost. It counts clock
 * ticks without one, and takes the lock over after as many as its patience. Patience
 * doubles with each take-over, up to LONGEST, and a sale resets it. Every replica sees
 * each take-over, so the model has one patience for all.
 *
 * Safety is checked without any assumption about time: a step may come at any time or
 * never. That sales go on (-DNP) needs one: a replica that has not crashed takes each
 * step of a tenure (begin, claim, sell) within SLOW ticks, which no replica knows.
 *
 * Only the order of revisions matters. They are numbered again after each step, so
 * that they stay small while tenures follow each other without end.
 *
 * What is checked
 *
 *   - A tenure that begins has a larger token than every tenure before it.
 *   - Only the tenure that claimed last can sell.
 *   - A take-over deletes only the key whose silence was counted.
 *   - After a take-over, the next tenure is not that of the evicted replica.
 *   - With -DNP and pan -l: there is no endless run without a sale.
 *
 * With ONE_HOLDER: at most one replica believes that it holds the lock. This breaks,
 * and no lock with a lease can do better. The keys exclude each other, but a holder
 * learns late that its key is gone.
 *
 * Mutants, each of which breaks a property:
 *
 *   NO_FENCE       MySQL does not compare the fence
 *   EVICT_BY_NAME  a take-over deletes the first key, whichever it is
 *   EVICT_FIRST    a replica takes the lock over before it queues
 *   NO_PATIENCE    patience does not grow, and replicas evict each other for ever
 *
 * LONGEST must be longer than a tenure needs until it sells: with -DSLOW=2 -DLONGEST=4
 * replicas evict each other for ever, too.
 */
#ifndef REPLICAS
#define REPLICAS 2
#endif
#ifndef SLOW
#define SLOW 1
#endif
#define QUEUE_AFTER 1	/* ticks of silence */
#define TAKE_AFTER 2	/* patience at first */
#ifndef LONGEST
#define LONGEST 8	/* more than a tenure needs to sell: three steps of SLOW ticks */
#endif

/* etcd: the create revision of each replica's key; 0 is no key. */
byte key[REPLICAS];
/* MySQL: the newest token claimed. */
byte fence;
/* A replica's tenure, by its token; 0 is none. The key of another's that was first at
   the last tick, and the ticks of silence since. */
byte token[REPLICAS], saw[REPLICAS], silent[REPLICAS];
bit claimed[REPLICAS], sold[REPLICAS], dead[REPLICAS];
byte patience = TAKE_AFTER;
/* Ticks for which a replica has had a step of its tenure to take. */
byte owed[REPLICAS];
/* What may still go wrong. */
byte crashes = 1, leaseEnds = 1;
/* What an observer notes: the newest tenure that began, and who was evicted since,
   plus one. */
byte newest, evicted;

#define REVISIONS (3 * REPLICAS + 2)
#define USES(r, v) (key[r] == v || token[r] == v || saw[r] == v)
#define BEFORE(r, other) (key[other] == 0 || key[r] <= key[other])
/* Safety does not depend on time. With -DNP a replica is never late: it takes a step of
   its tenure within SLOW ticks, and reacts to silence before the next tick. */
#define DUE(r) (silent[r] >= QUEUE_AFTER && key[r] == 0 || silent[r] >= patience)
#ifdef NP
#define IN_TIME(r) (dead[r] || !DUE(r) && (!(FIRST(r) || token[r] != 0) || owed[r] < SLOW))
#define PASS_TIME(r) owed[r] = ((FIRST(r) || token[r] != 0) -> owed[r] + 1 : 0)
#else
#define IN_TIME(r) true
#define PASS_TIME(r) skip
#endif
#define SELLS(r) (!dead[r] && token[r] == key[r] && FIRST(r))
#if REPLICAS > 2
#define USED(v) (fence == v || newest == v || USES(0, v) || USES(1, v) || USES(2, v))
#define FIRST(r) (key[r] != 0 && BEFORE(r, 0) && BEFORE(r, 1) && BEFORE(r, 2))
#define ANY_SELLS (SELLS(0) || SELLS(1) || SELLS(2))
#define ALL_IN_TIME (IN_TIME(0) && IN_TIME(1) && IN_TIME(2))
#define ANY_KEY (key[0] != 0 || key[1] != 0 || key[2] != 0)
#else
#define USED(v) (fence == v || newest == v || USES(0, v) || USES(1, v))
#define FIRST(r) (key[r] != 0 && BEFORE(r, 0) && BEFORE(r, 1))
#define ANY_SELLS (SELLS(0) || SELLS(1))
#define ALL_IN_TIME (IN_TIME(0) && IN_TIME(1))
#define ANY_KEY (key[0] != 0 || key[1] != 0)
#endif
#ifdef NO_FENCE
#define FENCE_ADMITS(t) true
#else
#define FENCE_ADMITS(t) (fence == t)
#endif
#ifdef EVICT_FIRST
#define MAY_EVICT(r) true
#else
#define MAY_EVICT(r) (key[r] != 0)
#endif
#ifdef EVICT_BY_NAME
#define UNCHANGED true
#else
#define UNCHANGED (key[first] == saw[r])
#endif
#ifdef NO_PATIENCE
#define LONGER patience
#else
#define LONGER ((2 * patience < LONGEST) -> 2 * patience : LONGEST)
#endif

/* Closes the gaps between the revisions that are in use. */
#define DOWN(x) x = ((x > v) -> x - 1 : x)
inline renumber() {
	v = REVISIONS;
	do
	:: v > 0 ->
		if
		:: !USED(v) ->
			DOWN(fence); DOWN(newest); i = 0;
			do
			:: i < REPLICAS -> DOWN(key[i]); DOWN(token[i]); DOWN(saw[i]); i++
			:: else -> break
			od
		:: else
		fi;
		v--
	:: else -> break
	od;
	i = 0
}
/* The replica whose key is first, or REPLICAS where there is no key. */
inline findFirst() {
	first = 0;
	do
	:: first < REPLICAS && !FIRST(first) -> first++
	:: else -> break
	od
}
inline endTenure() { owed[r] = 0; token[r] = 0; claimed[r] = 0; sold[r] = 0; renumber() }
inline forgetSilence() { saw[r] = 0; silent[r] = 0 }

proctype Replica(byte r) {
	byte v, i, first;
end:	do
	/* It queues: at once, or after silence. Orders always wait. */
	:: d_step { !dead[r] && key[r] == 0 && token[r] == 0 -> key[r] = REVISIONS + 1; renumber() }
	/* Its tenure: begin, claim, sell. */
	:: d_step { !dead[r] && FIRST(r) && token[r] == 0 ->
		token[r] = key[r]; forgetSilence();
		assert(token[r] > newest); newest = token[r];
		assert(evicted != r + 1); evicted = 0;
		printf("step replica%d: begins a tenure\n", r);
#ifdef ONE_HOLDER
		i = 0; do :: i < REPLICAS -> assert(i == r || token[i] == 0); i++ :: else -> break od;
#endif
		owed[r] = 0; renumber() }
	:: d_step { !dead[r] && token[r] > fence && !claimed[r] ->
		fence = token[r]; claimed[r] = 1; owed[r] = 0; printf("step replica%d: claims\n", r); renumber() }
	:: d_step { !dead[r] && claimed[r] && FENCE_ADMITS(token[r]) ->
		assert(fence == token[r]); sold[r] = 1; patience = TAKE_AFTER; owed[r] = 0;
		printf("step replica%d: sells\n", r) };
progress:	skip
	/* Its tenure ends: MySQL refuses it, its key is gone, or it gives the lock back. */
	:: d_step { !dead[r] && token[r] != 0 && fence > token[r] -> endTenure() }
	:: d_step { !dead[r] && token[r] != 0 && key[r] != token[r] -> endTenure() }
	:: d_step { !dead[r] && sold[r] && key[r] == token[r] -> key[r] = 0; endTenure() }
	/* A heartbeat arrives. */
	:: d_step { silent[r] > 0 && ANY_SELLS -> silent[r] = 0 }
	/* The take-over. */
	:: d_step { !dead[r] && silent[r] >= patience && MAY_EVICT(r) ->
		findFirst();
		if
		:: first < REPLICAS && first != r && UNCHANGED ->
			assert(key[first] == saw[r]);
			key[first] = 0; evicted = first + 1; patience = LONGER;
			printf("step replica%d: takes the lock from replica%d, patience %d\n", r, first, patience)
		:: else
		fi;
		first = 0; forgetSilence(); renumber() }
	/* What goes wrong. */
	:: d_step { crashes > 0 && !dead[r] -> crashes--; dead[r] = 1; forgetSilence(); endTenure() }
	:: d_step { leaseEnds > 0 && key[r] != 0 -> leaseEnds--; key[r] = 0; evicted = 0; renumber() }
	od
}

active proctype Clock() {
	byte r, v, i, first;
end:	do
	:: d_step { ANY_KEY && ALL_IN_TIME ->
		findFirst();
		r = 0;
		do
		:: r < REPLICAS ->
			if
			:: dead[r] || r == first || token[r] != 0 -> forgetSilence()
			:: else ->
				if
				:: saw[r] == key[first] -> silent[r] = ((silent[r] < LONGEST) -> silent[r] + 1 : LONGEST)
				:: else -> saw[r] = key[first]; silent[r] = 0
				fi
			fi;
			if :: !dead[r] -> PASS_TIME(r) :: else fi;
			r++
		:: else -> break
		od;
		r = 0; first = 0; renumber() }
	od
}

init { atomic { byte r; do :: r < REPLICAS -> run Replica(r); r++ :: else -> break od; r = 0 } }
