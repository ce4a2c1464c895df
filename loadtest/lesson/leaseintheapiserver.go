package lesson

import (
	"net/http"
	"time"

	"flashsale/internal/strategy"
	"flashsale/loadtest/lesson/testbed"
)

var leaseInTheAPIServer = Lesson{
	Name:    "lease-in-the-api-server",
	Title:   "a Lease that is written without its version",
	Chinese: "Kubernetes Lease 锁：写入时不比较 resourceVersion",
	Shows:   "Replicas lock by writing their name into a Lease object of Kubernetes. The API server compares its version only if a write has one.",
	Servers: []string{MySQL, Kubernetes},
	Variants: []Variant{
		{Title: "a patch without resourceVersion", Breaks: true, Script: func(run *testbed.Run) {
			a, b := apiLeaseBuyers(run)
			a.get()
			b.get()
			a.lease.Metadata.ResourceVersion = ""
			a.mustRefuse("PUT without resourceVersion: 422, a Lease must have one", http.StatusUnprocessableEntity)
			for _, buyer := range []*leaseBuyer{a, b} {
				buyer.call(http.MethodPatch, map[string]any{"spec": buyer.takenAt(time.Now())}, http.StatusOK)
				buyer.To(Kubernetes, testbed.Lock).Log("PATCH without resourceVersion: 200, acquires the lock")
				buyer.Read()
			}
			a.Sell(1)
			b.Sell(1)
		}},
		{Title: "an update with resourceVersion, but each replica compares renewTime with its own clock", Breaks: true, Script: func(run *testbed.Run) {
			a, b := apiLeaseBuyers(run)
			a.get()
			a.take(time.Now())
			a.Read()
			b.get()
			now := time.Now().Add(skew)
			if now.Before(b.lease.Spec.end(run)) {
				run.Fail("the lease has not ended by B's clock")
			}
			b.To(Kubernetes, testbed.Note).Log("renewTime + 30 s is 30 s ago, by its own clock, which is a minute ahead")
			b.take(now)
			b.Read()
			a.Sell(1)
			b.Sell(1)
		}},
		{Title: "an update with resourceVersion, once the same version was seen for 30 s", Script: func(run *testbed.Run) {
			a, b := apiLeaseBuyers(run)
			a.get()
			b.get()
			a.take(time.Now())
			b.mustRefuse("PUT with the version that it read: 409 Conflict", http.StatusConflict)
			b.get()
			if time.Since(b.seen) >= leaseTime {
				run.Fail("the lease has ended")
			}
			b.To(Kubernetes, testbed.Refuse).Log("must wait: it has not seen this version for 30 s, whatever its clock says")
			a.ReadAndSell()
			a.release()
			b.get()
			b.take(time.Now())
			b.ReadAndSell()
		}},
		{Title: "the service's own lock in a Lease, with a fencing token", Script: func(run *testbed.Run) {
			resumeBeforeWrite(run, strategy.Lease, strategy.FenceClaim)
		}},
	},
}

// apiLease has the fields of a Lease that a lock needs.
type apiLease struct {
	Metadata struct {
		Name            string `json:"name"`
		ResourceVersion string `json:"resourceVersion,omitempty"`
	} `json:"metadata"`
	Spec leaseSpec `json:"spec"`
}

type leaseSpec struct {
	Holder    string `json:"holderIdentity,omitempty"`
	Seconds   int    `json:"leaseDurationSeconds,omitempty"`
	RenewTime string `json:"renewTime,omitempty"`
}

// renewLayout is how the API server writes times with microseconds.
const renewLayout = "2006-01-02T15:04:05.000000Z07:00"

func (s leaseSpec) end(run *testbed.Run) time.Time {
	renewed, err := time.Parse(renewLayout, s.RenewTime)
	run.Check(err)
	return renewed.Add(time.Duration(s.Seconds) * time.Second)
}

// leaseBuyer is a buyer that locks with a Lease of the API server.
type leaseBuyer struct {
	*testbed.Buyer
	run   *testbed.Run
	api   *testbed.APIServer
	lease apiLease  // as last read
	seen  time.Time // when its version was first read, by the monotonic clock
}

// apiLeaseBuyers adds two buyers, and creates the Lease, which is free.
func apiLeaseBuyers(run *testbed.Run) (a, b *leaseBuyer) {
	api := run.APIServer()
	var free apiLease
	free.Metadata.Name = testbed.SKU
	if status := api.Call(http.MethodPost, leasesOf(run), free, nil); status != http.StatusCreated {
		run.Fail("create the Lease: status %d", status)
	}
	shop := run.Shop(1)
	return &leaseBuyer{Buyer: shop.Buyer("A"), run: run, api: api}, &leaseBuyer{Buyer: shop.Buyer("B"), run: run, api: api}
}

func leasesOf(run *testbed.Run) string {
	return "/apis/coordination.k8s.io/v1/namespaces/" + run.Name + "/leases"
}

// call sends a request about the Lease. A status other than want ends the script.
func (b *leaseBuyer) call(method string, body any, want int) {
	var answer apiLease
	if status := b.api.Call(method, leasesOf(b.run)+"/"+testbed.SKU, body, &answer); status != want {
		b.run.Fail("%s: %s the Lease: status %d, want %d", b.Name, method, status, want)
	}
	if want == http.StatusOK && answer.Metadata.ResourceVersion != b.lease.Metadata.ResourceVersion {
		b.lease, b.seen = answer, time.Now()
	}
}

// get reads the Lease.
func (b *leaseBuyer) get() {
	b.call(http.MethodGet, nil, http.StatusOK)
	state := "is free"
	if holder := b.lease.Spec.Holder; holder != "" {
		state = "is held by " + holder
	}
	b.To(Kubernetes, testbed.Read).Log("GET: the Lease %s", state)
}

// takenAt is the Lease with the buyer as its holder.
func (b *leaseBuyer) takenAt(now time.Time) leaseSpec {
	return leaseSpec{Holder: b.Name, Seconds: int(leaseTime / time.Second), RenewTime: now.UTC().Format(renewLayout)}
}

// put writes the Lease with the version that was read last.
func (b *leaseBuyer) put(spec leaseSpec, want int) {
	next := b.lease
	next.Spec = spec
	b.call(http.MethodPut, next, want)
}

func (b *leaseBuyer) take(now time.Time) {
	b.put(b.takenAt(now), http.StatusOK)
	b.To(Kubernetes, testbed.Lock).Log("PUT with the version that it read: 200, acquires the lock for 30 s")
}

// mustRefuse tries to take the Lease, which the server must refuse with that status.
func (b *leaseBuyer) mustRefuse(what string, status int) {
	b.put(b.takenAt(time.Now()), status)
	b.To(Kubernetes, testbed.Refuse).Log("%s", what)
}

func (b *leaseBuyer) release() {
	b.put(leaseSpec{}, http.StatusOK)
	b.To(Kubernetes, testbed.Lock).Log("PUT without a holder: 200, releases the lock")
}
