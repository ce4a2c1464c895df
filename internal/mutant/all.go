package mutant

const (
	takeFile   = "internal/stock/take.go"
	claimFile  = "internal/stock/claim.go"
	deskFile   = "internal/order/desk.go"
	routeFile  = "internal/order/route.go"
	sellFile   = "internal/order/sell.go"
	rowsFile   = "internal/order/rows.go"
	commitFile = "internal/order/commit.go"
	directFile = "internal/order/direct.go"
	leaseFile  = "internal/lock/lease/keep.go"

	ofOrder, ofStock = "./internal/order", "./internal/stock"
)

// noFence is the edit that makes a batch's write ignore the token.
var noFence = Edit{takeFile, `{"fence", func(s *Stock) int64 { return int64(s.Fence) }, "=", int64(t.Claim.Token)},`, ""}

// noSeq is the edit that makes a batch's write ignore what the row was when it was read.
var noSeq = Edit{takeFile, `{"seq", func(s *Stock) int64 { return int64(s.Seq) }, "=", int64(t.Row.Seq)},`, ""}

// All are the mutants.
var All = []Mutant{
	{
		Name: "no-compare", About: "A seller's write compares neither its token nor the row's seq, so that a stopped seller sells on after its lease.",
		Edits:     []Edit{noFence, noSeq},
		Scenarios: []string{"seller-stopped"},
		Test:      "TestStaleHolderUnderEachFence", Package: ofStock,
	},
	{
		Name: "no-fence-compare", About: "A seller's write does not compare its token. The comparison of seq hides it from a whole service: a stale write fails once the successor has sold.",
		Edits: []Edit{noFence},
		Test:  "TestStaleHolderUnderEachFence", Package: ofStock,
	},
	{
		Name: "no-seq-compare", About: "A seller's write does not compare seq, so that it sells by a row that was changed meanwhile: at an old price, or above a new limit.",
		Edits:     []Edit{noSeq},
		Scenarios: []string{"seller-killed", "chaos"},
		Test:      "TestRefusalAfterALostCommitStands", Package: ofOrder,
	},
	{
		Name: "no-claim", About: "A tenure begins without a claim: its first write is computed from a row that its predecessor may still change, and the token is only compared when writing.",
		Edits: []Edit{
			{claimFile, "if c.Fence == strategy.FenceClaim {\n\t\tquery =", "if c.Fence == \"never\" {\n\t\tquery ="},
			{takeFile, "case strategy.FenceWrite:\n\t\tset", "case strategy.FenceWrite, strategy.FenceClaim:\n\t\tset"},
			{takeFile, "case strategy.FenceClaim:\n\t\tset", "case \"never\":\n\t\tset"},
			{takeFile, "case strategy.FenceWrite:\n\t\treturn", "case strategy.FenceWrite, strategy.FenceClaim:\n\t\treturn"},
			{takeFile, "const takeTogether = 32", "const takeTogether = 1"},
			// Such a seller sees no change by others, which therefore take the lock; and
			// the row does not show its token before its first sale.
			{deskFile, "if d.cfg.Fence == strategy.FenceClaim {\n\t\t\t\td.applyChanges()", "if d.cfg.Fence == strategy.FenceWrite {\n\t\t\t\td.applyChanges()"},
			{"internal/order/refusals.go", "v == version{uint64(c.claim.Token), c.row.Seq}", "v.seq == c.row.Seq"},
		},
		Scenarios: []string{"killed-mid-commit"},
		Test:      "TestStaleHolderUnderEachFence", Package: ofStock,
	},
	{
		Name: "no-quantity-guard", About: "Neither the seller's memory nor its write checks that enough units are left.",
		Edits: []Edit{
			{takeFile, `{"available", func(s *Stock) int64 { return s.Available }, ">=", t.Units},`, ""},
			{sellFile, "case left < n:", "case left < 0 && n < 0:"},
		},
		Scenarios: []string{"seller-killed"},
		Test:      "TestThreeAndTwoOfFour", Package: ofOrder,
	},
	{
		Name: "unlock-before-commit", About: "An order without a desk releases its lock before its COMMIT. Desks are not affected: their fence makes the lock an admission only.",
		Edits: []Edit{{directFile, "defer func() { d.cfg.noteUnlock(r.SKU, r, held, d.cfg.unlock(ctx, r.SKU, held, granted)) }()", "_ = d.cfg.unlock(ctx, r.SKU, held, granted)"}},
		Test:  "TestThreeAndTwoOfFour", Package: ofOrder,
	},
	{
		Name: "no-unique-key", About: "The table of orders has no unique key, so that a buyer who repeats a key that the seller does not remember gets a second order.",
		Edits:     []Edit{{"internal/stock/migrations/00001_tables.sql", "UNIQUE KEY one_order_a_key", "KEY one_order_a_key"}},
		Scenarios: []string{"seller-killed", "rolling-restart"},
		Test:      "TestOneKeyIsOneOrder", Package: ofOrder,
	},
	{
		Name: "refusal-before-replay", About: "An order is refused although its key has an order already.",
		Edits: []Edit{
			{sellFile, "t.era); ok {", "t.era); ok && t.row.Available >= int64(o.Quantity) {"},
			{sellFile, "if o, ok := c.found[b.order.key()]; ok {", "if o, ok := c.found[b.order.key()]; ok && t.row.Available >= int64(o.Quantity) {"},
		},
		Scenarios: []string{"seller-killed"},
		Test:      "TestReplayComesBeforeEveryRefusal", Package: ofOrder,
	},
	{
		Name: "refusal-from-memory", About: "An order is refused by the seller's copy of the row, which does not show the units that another replica has returned since.",
		Edits:     []Edit{{"internal/order/refusals.go", "|| ok && v == version", "|| ok || v == version"}},
		Scenarios: []string{"seller-killed", "chaos"},
		Test:      "TestSaleWindow", Package: ofOrder,
	},
	{
		Name: "units-returned-twice", About: "A cancellation returns the units of an order that was cancelled already.",
		Edits: []Edit{
			{"internal/order/life.go", "if o.Status == Reserved {", "if o.Status == Reserved || o.Status == Cancelled {"},
			{"internal/order/returns.go", "AND status = 'reserved'", "AND status IN ('reserved', 'cancelled')"},
		},
		Scenarios: []string{"seller-killed"},
		Test:      "TestCancellingReturnsTheUnitsOnce", Package: ofOrder,
	},
	{
		Name: "answer-before-commit", About: "Orders are answered before their COMMIT.",
		Edits:     []Edit{{sellFile, "t.cfg.At(BeforeCommit)", "for i, b := range d.accepted {\n\t\t\tb.answer(Placed{Order: *d.orders[i]}, nil)\n\t\t}\n\t\tt.cfg.At(BeforeCommit)"}},
		Scenarios: []string{"commit-cut", "mysql-killed"},
		Test:      "TestStaleHolderIsFenced", Package: ofOrder,
	},
	{
		Name: "resend-under-new-key", About: "After its link has ended, an order is sent again under another key.",
		Edits:     []Edit{{routeFile, "unsure = true\n", "unsure = true\n\t\t\tr.Key, r.id = r.Key+\"again\", newID()\n"}},
		Scenarios: []string{"killed-mid-forward", "seller-killed", "seller-stopped"},
		Test:      "TestLinkThatEndsInEachState", Package: ofOrder,
	},
	{
		Name: "carried-over", About: "A forwarded order whose tenure has ended stays in the queue, and a later tenure decides it.",
		Edits: []Edit{
			{"internal/order/ticket.go", "token > t.order.least && t.forwarded == nil", "token > t.order.least"},
			{deskFile, "\td.answerAll(err)\n\treturn err\n}\n\n// lock waits", "\treturn err\n}\n\n// lock waits"},
		},
		Test: "TestForwardedOrderIsDecidedInItsTenureOnly", Package: ofOrder,
	},
	{
		Name: "no-settle", About: "After an unknown COMMIT the batch is decided again at once, as if nothing had been written.",
		Edits:     []Edit{{sellFile, "return t.resolve(d, err)\n", ""}},
		Scenarios: []string{"commit-cut"},
		Test:      "TestRefusalAfterALostCommitStands", Package: ofOrder,
	},
	{
		Name: "unknown-as-503", About: "After an unknown COMMIT the orders are answered 503, which says that nothing was applied.",
		Edits:     []Edit{{sellFile, "return t.resolve(d, err)\n", "return t.unavailable(err)\n"}},
		Scenarios: []string{"commit-cut", "mysql-killed"},
		Test:      "TestLostCommitIsResolved", Package: ofOrder,
	},
	{
		Name: "payment-of-any-status", About: "A payment does not compare the order's status: it pays a cancelled order, whose units were returned.",
		Edits:     []Edit{{rowsFile, "\"id = ? AND customer = ? AND status = 'reserved' AND", "\"id = ? AND customer = ? AND status <> 'paid' AND"}},
		Scenarios: []string{"seller-killed"},
		Test:      "TestPaymentAgainstCancellation", Package: ofOrder,
	},
	{
		Name: "reference-of-any-order", About: "A payment does not compare which order its reference is for: one reference pays several orders.",
		Edits: []Edit{{rowsFile, "id = (SELECT order_id FROM payments WHERE reference = ?)", "? IS NOT NULL"}},
		Test:  "TestOneReferencePaysOneOrder", Package: ofOrder,
	},
	{
		Name: "limit-of-each-order", About: "The limit of a customer is compared with each order of a batch alone.",
		Edits:     []Edit{{sellFile, "t.holds[o.Customer].units+takes[o.Customer]+n >", "t.holds[o.Customer].units+n >"}},
		Scenarios: []string{"seller-killed"},
		Test:      "TestLimitHoldsForOneCustomerOnManyReplicas", Package: ofOrder,
	},
	{
		Name: "cancelled-units-forgotten", About: "Under a strict hold policy, cancelled orders do not count: a customer who cancels and orders again holds units without paying.",
		Edits: []Edit{{rowsFile, "if policy == stock.Strict {", "if policy == \"never\" {"}},
		Test:  "TestCancellingAndOrderingAgainHoldsNoUnitsUnderStrict", Package: ofOrder,
	},
	{
		Name: "cancelled-units-remembered", About: "A seller goes on counting cancelled orders whose payment window has ended.",
		Edits: []Edit{{sellFile, "t.forgetFull()\n", ""}},
		Test:  "TestCancelledUnitsCountUntilTheWindowEnds", Package: ofOrder,
	},
	{
		Name: "unpaid-not-counted", About: "The transaction does not count unpaid orders: two orders for two SKUs, decided at the same time, both pass.",
		Edits: []Edit{{commitFile, "b.WriteString(\"; \" + stopAbove(group[0].maxUnpaid, unpaid))", ""}},
		Test:  "TestUnpaidBoundIsExactInTheTransaction", Package: ofOrder,
	},
	{
		Name: "customers-not-locked", About: "The transaction counts unpaid orders without locking their customers first: it does not see those of another transaction, which does not see its own.",
		Edits: []Edit{{commitFile, "b.WriteString(turnOf(unpaid) + \"; \")", "_ = turnOf"}},
		Test:  "TestUnpaidBoundIsExactInTheTransaction", Package: ofOrder,
	},
	{
		Name: "lease-deadline-ignored", About: "A holder believes in its lease until etcd ends it. The fence hides it from a whole service.",
		Edits: []Edit{
			{leaseFile, "return !l.isLost && time.Now().Before(l.deadline)", "return !l.isLost"},
			{leaseFile, "time.AfterFunc(l.remaining(), l.expire)", "time.AfterFunc(l.remaining(), func() {})"},
		},
		Test: "TestNoGrantPastTheLeaseDeadline", Package: "./internal/lock/etcdlock",
	},
}
