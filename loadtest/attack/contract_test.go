package attack

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// guest is a service that answers the calls of docs/contract.md. An answer in deviates
// replaces its own.
type guest struct {
	deviates map[string]string // of METHOD /path: "STATUS body"
	orders   []string
	key      bool // whether the list shows keys
}

func (g *guest) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	text, ok := g.deviates[r.Method+" "+r.URL.Path]
	switch {
	case ok:
	case r.Method == http.MethodPost && len(g.orders) > 0:
		text = `409 {"type":"/errors/sold-out"}`
	case r.Method == http.MethodPost:
		key := ""
		if g.key {
			key = `"idempotency_key":"` + r.Header.Get("Idempotency-Key") + `",`
		}
		plan := trial("")
		g.orders = append(g.orders, fmt.Sprintf(`{"id":41,%s"customer":%q,"sku":"lamp","quantity":1,"status":"paid"}`, key, plan.Order(0).Customer))
		text = `201 {"id":41}`
	case r.URL.Path == "/v1/skus/lamp":
		text = `200 {"sku":"lamp","units":1,"available":1}`
	default:
		text = `200 {"items":[` + strings.Join(g.orders, ",") + `]}`
	}
	var status int
	_, _ = fmt.Sscan(text, &status)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text[4:])
}

func trial(target string) Plan {
	return Plan{Targets: []string{target}, SKUs: []string{"lamp"}, MaxQuantity: 1, Burst: 2, Seed: 7}
}

func TestDeviationFromTheContractIsNamed(t *testing.T) {
	const list, order = "GET /v1/admin/orders", "POST /v1/orders"
	plan := trial("")
	buyer := plan.Order(0)
	for _, tt := range []struct{ name, call, answer, want string }{ // want "" is no error
		{"nothing", "", "", ""},
		{"no list", list, `404 {"detail":"Not found."}`, ""},
		{"no list, and no route for it", list, `405 x`, ""},
		{"no list yet", list, `501 x`, ""},
		{"a broken list", list, `500 oops`, "500 Internal Server Error"},
		{"a list of another form", list, `200 {"orders":[]}`, "the answer has no items"},
		{"a list without the order", list, `200 {"items":[]}`, "wants only the accepted order"},
		{"another state", list, `200 {"items":[{"id":41,"customer":"` + buyer.Customer + `","sku":"lamp","quantity":1,"status":"new"}]}`, `status "new"`},
		{"another customer", list, `200 {"items":[{"id":41,"customer":"ann","sku":"lamp","quantity":1,"status":"paid"}]}`, `customer "ann"`},
		{"a list without end", list, `200 {"items":[{"id":41}],"next_cursor":"x"}`, "the list does not end"},
		{"200 for an order", order, `200 {"id":41}`, `POST /v1/orders for the only unit was answered 200 OK {"id":41}; docs/contract.md wants 201 with the order's id`},
		{"an order without id", order, `201 {"order":{"id":41}}`, "wants 201 with the order's id"},
		{"every order accepted", order, `201 {"id":41}`, `a unit more than there are was answered 201 Created {"id":41}; docs/contract.md wants 409 with {"type":"/errors/sold-out"}`},
		{"no stock", "GET /v1/skus/lamp", `200 {"sku":"lamp","units":1}`, `wants 200 with {"sku":"lamp","units":1,"available":1}`},
		{"a page", "GET /v1/skus/lamp", "200 <html>\n<p>", "answered 200 OK <html> <p>; docs"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, key := range []bool{true, false} {
				plan := trial(serveHTTP(t, &guest{deviates: map[string]string{tt.call: tt.answer}, key: key}, nil))
				service := &Service{URL: plan.Targets[0], AdminToken: "admin", JWTSecret: secret}
				listed, err := service.Conforms(t.Context(), &plan)
				if text := fmt.Sprint(err); (err == nil) != (tt.want == "") || !strings.Contains(text, tt.want) && tt.want != "" || strings.Contains(text, "\n") {
					t.Errorf("got %v, want %q", err, tt.want)
				}
				if err == nil && listed == strings.HasPrefix(tt.name, "no list") {
					t.Errorf("got listed %v", listed)
				}
			}
		})
	}
}

func TestAnyIDIsAccepted(t *testing.T) {
	seen := map[AnyID]string{}
	for _, text := range []string{`41`, `42`, `"a"`, `"b"`, `"00000000-0000-4000-8000-000000000000"`} {
		var id AnyID
		if err := json.Unmarshal([]byte(text), &id); err != nil || id == (AnyID{}) || seen[id] != "" {
			t.Errorf("%s: got %v and error %v; the same as %s", text, uuid.UUID(id), err, seen[id])
		}
		seen[id] = text
	}
	for _, text := range []string{`""`, `null`} {
		var id AnyID
		if err := json.Unmarshal([]byte(text), &id); err != nil || id != (AnyID{}) {
			t.Errorf("%s: got %v and error %v", text, uuid.UUID(id), err)
		}
	}
	if err := json.Unmarshal([]byte(`{"n":1}`), new(AnyID)); err == nil {
		t.Error("an object is accepted as an id")
	}
}

func TestOrdersAreReadPageByPage(t *testing.T) {
	var asked []string
	url := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RawQuery)
		if r.URL.Query().Get("cursor") == "" {
			fmt.Fprint(w, `{"items":[{"id":1}],"next_cursor":"a b"}`)
			return
		}
		fmt.Fprint(w, `{"items":[{"id":2}],"next_cursor":null}`)
	}), nil)
	orders, err := (&Service{URL: url}).Orders(t.Context(), "lamp")
	if err != nil || len(orders) != 2 || strings.Join(asked, " ") != "limit=200&sku=lamp cursor=a+b&limit=200&sku=lamp" {
		t.Errorf("got %v and error %v after %q", orders, err, asked)
	}
	if _, err := (&Service{URL: serveHTTP(t, http.NotFoundHandler(), nil)}).Orders(t.Context(), "lamp"); !errors.Is(err, ErrNoList) {
		t.Errorf("got %v, want %v", err, ErrNoList)
	}
}
