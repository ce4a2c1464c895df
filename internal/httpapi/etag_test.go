package httpapi_test

import (
	"net/http"
	"strings"
	"testing"
)

func TestIfNoneMatchAnswers304(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	created := s.putSKU("lamp", thing)
	created.check(t, http.StatusCreated, "", "")
	s.putSKU("sofa", thing).check(t, http.StatusCreated, "", "")
	tag := s.call("GET", "/v1/skus/lamp", "").Header.Get("ETag")
	if tag == "" || tag != created.Header.Get("ETag") {
		t.Errorf("the SKU was created with ETag %q and read with %q", created.Header.Get("ETag"), tag)
	}
	for header, status := range map[string]int{
		tag: 304, "W/" + tag: 304, "*": 304, `"x", ` + tag: 304, `"x",W/` + tag + `,"y"`: 304, "\t" + tag + " ,": 304,
		`"x"`: 200, strings.Trim(tag, `"`): 200, `"` + tag: 200, tag + ` "x"`: 200, `W/`: 200, ",": 200, `"`: 200,
	} {
		got := s.call("GET", "/v1/skus/lamp", "", "If-None-Match", header)
		if got.StatusCode != status || got.Header.Get("ETag") != tag {
			t.Errorf("If-None-Match: %s got %d with ETag %q, want %d with %q", header, got.StatusCode, got.Header.Get("ETag"), status, tag)
		}
	}
	list := s.call("GET", "/v1/skus", "").Header.Get("ETag")
	s.call("GET", "/v1/skus", "", "If-None-Match", list).check(t, http.StatusNotModified, "", "")
	s.call("GET", "/v1/skus?limit=1", "", "If-None-Match", list).check(t, http.StatusOK, "", "")
	s.placed(customer(t, "ann"), "k")
	s.call("GET", "/v1/skus", "", "If-None-Match", list).check(t, http.StatusOK, "", "")
	s.call("GET", "/v1/skus/lamp", "", "If-None-Match", tag).check(t, http.StatusOK, "", "")
}

func TestPreconditionsOfPut(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	put := func(sku string, headers ...string) response {
		return s.call("PUT", "/v1/admin/skus/"+sku, thing, append(headers, "Authorization", "Bearer "+adminToken)...)
	}
	put("lamp", "If-Match", "*").check(t, http.StatusPreconditionFailed, "precondition-failed", "")
	put("lamp", "If-Match", `"1-1"`).check(t, http.StatusPreconditionFailed, "precondition-failed", "")
	created := put("lamp", "If-None-Match", "*")
	created.check(t, http.StatusCreated, "", "")
	put("lamp", "If-None-Match", "*").check(t, http.StatusPreconditionFailed, "precondition-failed", "")
	tag := created.Header.Get("ETag")

	// A sale does not change the revision.
	s.placed(customer(t, "ann"), "k")
	changed := put("lamp", "If-Match", tag)
	changed.check(t, http.StatusOK, "", "")
	put("lamp", "If-Match", tag).check(t, http.StatusPreconditionFailed, "precondition-failed", "")
	now := changed.Header.Get("ETag")
	// A compressing proxy changes ETags; the answer says so.
	bare := strings.Trim(now, `"`)
	for _, header := range []string{"W/" + now, `W/"x", W/` + now, `"` + bare + `-gzip"`, `"` + bare + `;br"`, `"0` + bare + `"`, `"` + bare + ` "`, `"no tag of ours"`, `"2-"`, `""`} {
		got := put("lamp", "If-Match", header)
		if got.check(t, http.StatusPreconditionFailed, "precondition-failed", ""); !strings.Contains(got.text, "Accept-Encoding: identity") {
			t.Errorf("If-Match: %s got %s", header, got.text)
		}
	}
	put("lamp", "If-Match", now, "If-None-Match", "*").check(t, http.StatusPreconditionFailed, "precondition-failed", "")
	again := put("lamp", "If-Match", tag+", "+now)
	again.check(t, http.StatusOK, "", "")
	again = put("lamp", "If-Match", `W/"x",`+again.Header.Get("ETag")+",\tW/"+tag)
	again.check(t, http.StatusOK, "", "")
	put("lamp", "If-Match", "*").check(t, http.StatusOK, "", "")

	put("lamp", "If-Match", "1-1").check(t, http.StatusBadRequest, "malformed-request", "If-Match")
	put("lamp", "If-None-Match", "lamp").check(t, http.StatusBadRequest, "malformed-request", "If-None-Match")
	put("lamp", "If-None-Match", tag).check(t, http.StatusUnprocessableEntity, "invalid-input", "If-None-Match")
	put("lamp", "If-Match", strings.Repeat(`"1-1", `, 20)).check(t, http.StatusPreconditionFailed, "precondition-failed", "")
	put("lamp", "If-Match", `"1-1","2-1","3-1","4-1","5-1","6-1","7-1","8-1","9-1"`).check(t, http.StatusBadRequest, "malformed-request", "If-Match")
}

func TestHeaderLinesFormOneList(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.putSKU("lamp", thing).check(t, http.StatusCreated, "", "")
	tag := s.call("GET", "/v1/skus/lamp", "").Header.Get("ETag")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/v1/skus/lamp", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	r.Header["If-None-Match"] = []string{`"x"`, tag}
	got, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	if got.StatusCode != http.StatusNotModified {
		t.Errorf("got %d, want 304", got.StatusCode)
	}
}
