package httpapi_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

// forListing runs f with streams that read MySQL, and with two replicas that have the
// mirror. f changes SKUs here, and looks there.
func forListing(t *testing.T, f func(t *testing.T, here, there *server)) {
	t.Parallel()
	t.Run("conditional", func(t *testing.T) {
		t.Parallel()
		s := newServer(t)
		f(t, s, s)
	})
	t.Run("etcd", func(t *testing.T) {
		t.Parallel()
		two := startReplicas(t, 2, func(*sandbox.ReplicaConfig) {})
		f(t, two[0], two[1])
	})
}

// secretThing is thing with a time of its announcement.
func secretThing(visibleFrom time.Time) string {
	return strings.Replace(thing, "}", fmt.Sprintf(`,"visible_from":%q}`, visibleFrom.UTC().Format(time.RFC3339Nano)), 1)
}

func (s *server) admin(method, path string, headers ...string) response {
	s.t.Helper()
	return s.call(method, path, "", append(headers, "Authorization", "Bearer "+adminToken)...)
}

// awaitListed waits until the list has, or lacks, the SKU.
func (s *server) awaitListed(sku string, want bool) {
	s.t.Helper()
	sandboxtest.Eventually(s.t, fmt.Sprintf("%s listed: %v", sku, want), func() bool {
		return strings.Contains(s.call("GET", "/v1/skus", "").text, `"sku":"`+sku+`"`) == want
	})
}

// unknown checks that customers cannot tell the SKU from one that does not exist.
func (s *server) unknown(sku string) {
	s.t.Helper()
	for _, path := range []string{"/v1/skus/" + sku, "/v1/skus/" + sku + "/events"} {
		got := s.call("GET", path, "")
		got.check(s.t, 404, "unknown-sku", "")
		if got.Header.Get("Cache-Control") != "no-store" {
			s.t.Errorf("%s: a cache may keep the answer past the announcement: %v", path, got.Header)
		}
	}
	s.order(customer(s.t, "ann"), "secret", fmt.Sprintf(`{"sku":%q,"quantity":1}`, sku)).check(s.t, 404, "unknown-sku", "")
	if list := s.call("GET", "/v1/skus", ""); strings.Contains(list.text, sku) {
		s.t.Errorf("the list has %s", list.text)
	}
	if metrics := s.call("GET", "/metrics", ""); strings.Contains(metrics.text, `sku="`+sku) {
		s.t.Errorf("the metrics have %s", sku)
	}
}

// Customers find an unannounced SKU in no list, stream, answer or cache. At its time it
// appears in all of them, without a change of its row.
func TestSKUsAreSecretUntilTheirAnnouncement(t *testing.T) {
	forListing(t, func(t *testing.T, here, there *server) {
		here.put("lamp")
		there.awaitListed("lamp", true)
		stream := watch(t, there.URL+"/v1/events")
		if first := stream.next(); first.SKU != "lamp" {
			t.Fatalf("the first event is %+v", first)
		}
		here.putSKU("drop", secretThing(time.Now().Add(time.Hour))).check(t, 201, "", "")
		here.put("sofa")
		there.awaitListed("sofa", true) // the view has drop, too
		here.unknown("drop")
		there.unknown("drop")
		if next := stream.next(); next.SKU != "sofa" {
			t.Errorf("before the announcement the stream has %+v", next)
		}
		page := there.admin("GET", "/v1/admin/skus?limit=2")
		page.check(t, 200, "", "")
		if items := page.body["items"].([]any); len(items) != 2 || items[0].(map[string]any)["visible_from"] == nil || page.body["next_cursor"] == nil {
			t.Errorf("administrators see %s", page.text)
		}
		there.call("GET", "/v1/admin/skus", "", "Authorization", "Bearer "+customer(t, "ann")).check(t, 403, "forbidden", "")

		read := there.admin("GET", "/v1/admin/skus/drop")
		read.check(t, 200, "", "")
		cached := there.call("GET", "/v1/skus", "")
		soon := time.Now().Add(2 * time.Second)
		here.call("PUT", "/v1/admin/skus/drop", secretThing(soon), "Authorization", "Bearer "+adminToken, "If-Match", read.Header.Get("ETag")).check(t, 200, "", "")
		announced := stream.next()
		if at := time.Now(); announced.SKU != "drop" || announced.Available != 4 || at.Before(soon) {
			t.Errorf("at %s the stream has %+v, want the announcement at %s", at, announced, soon)
		}
		for _, s := range []*server{here, there} {
			s.awaitListed("drop", true)
			s.call("GET", "/v1/skus", "", "If-None-Match", cached.Header.Get("ETag")).check(t, 200, "", "")
			if one := watch(t, s.URL+"/v1/skus/drop/events").next(); one.SKU != "drop" || one.Gone {
				t.Errorf("its own stream has %+v", one)
			}
		}
		here.order(customer(t, "ann"), "secret", `{"sku":"drop","quantity":1}`).check(t, 201, "", "")

		// Postponed, it is secret again.
		last := announced
		for last.Available != 3 {
			last = stream.next()
		}
		here.putSKU("drop", secretThing(time.Now().Add(time.Hour))).check(t, 200, "", "")
		if gone := stream.next(); gone.SKU != "drop" || !gone.Gone {
			t.Errorf("after it was postponed the stream has %+v", gone)
		}
		there.awaitListed("drop", false)
	})
}

func TestWithdrawnSKUIsGoneAndItsOrdersStay(t *testing.T) {
	forListing(t, func(t *testing.T, here, there *server) {
		here.put("lamp")
		there.awaitListed("lamp", true)
		ann := customer(t, "ann")
		path := here.placed(ann, "k")
		one, all := watch(t, there.URL+"/v1/skus/lamp/events"), watch(t, there.URL+"/v1/events")
		one.until(3, event{})
		all.until(3, event{})
		read := here.admin("GET", "/v1/admin/skus/lamp")
		here.admin("DELETE", "/v1/admin/skus/lamp", "If-Match", `"7-7"`).check(t, 412, "precondition-failed", "")
		here.admin("DELETE", "/v1/admin/skus/none").check(t, 404, "unknown-sku", "")
		here.admin("DELETE", "/v1/admin/skus/-").check(t, 404, "unknown-sku", "")
		here.call("DELETE", "/v1/admin/skus/lamp", "", "Authorization", "Bearer "+ann).check(t, 403, "forbidden", "")
		here.admin("DELETE", "/v1/admin/skus/lamp", "If-Match", read.Header.Get("ETag")).check(t, 204, "", "")
		there.order(ann, "after", `{"sku":"lamp","quantity":1}`).check(t, 404, "unknown-sku", "")
		for _, stream := range []*stream{one, all} {
			if got := stream.next(); got.SKU != "lamp" || !got.Gone || got.Available != 0 {
				t.Errorf("the stream has %+v", got)
			}
		}
		for _, s := range []*server{here, there} {
			s.awaitListed("lamp", false)
			s.unknown("lamp")
			s.admin("DELETE", "/v1/admin/skus/lamp", "If-Match", read.Header.Get("ETag")).check(t, 204, "", "") // a repeated call
			s.putSKU("lamp", thing).check(t, 409, "sku-withdrawn", "")
			s.call("POST", "/v1/admin/skus/lamp/restocks", `{"units":1}`, "Authorization", "Bearer "+adminToken, "Idempotency-Key", "r").
				check(t, 409, "sku-withdrawn", "")
			if got := s.admin("GET", "/v1/admin/skus/lamp"); got.StatusCode != http.StatusOK || got.body["withdrawn_at"] == nil {
				t.Errorf("administrators see %s", got.text)
			}
		}
		there.as(ann, "GET", path, "").check(t, 200, "", "")
		there.order(ann, "k", `{"sku":"lamp","quantity":1}`).check(t, 201, "", "") // the same key, the same answer
		there.as(ann, "POST", path+"/payment", `{"reference":"pay-1"}`).check(t, 200, "", "")
		if report := there.admin("GET", "/v1/admin/audit"); report.body["ok"] != true || !strings.Contains(report.text, `"sku":"lamp","units":4,"available":3`) {
			t.Errorf("the audit says %s", report.text)
		}
		// A new stream knows nothing of it.
		here.put("sofa")
		there.awaitListed("sofa", true)
		if first := watch(t, there.URL+"/v1/events").next(); first.SKU != "sofa" {
			t.Errorf("a new stream has %+v", first)
		}
	})
}
