package attack

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// Call is what a request asks for.
type Call uint8

// The calls. Pay and Cancel are for an order that the attack made earlier, at most one of
// them for each.
const (
	Place Call = iota
	Pay
	Cancel
	Browse
	calls = iota
)

var callNames = [calls]string{"order", "pay", "cancel", "browse"}

// Calls returns all calls.
func Calls() []Call { return []Call{Place, Pay, Cancel, Browse} }

func (c Call) String() string { return callNames[c] }

// Mix is the share of each call, by Call. The zero value is orders only.
type Mix [calls]int

// maxShare bounds a share, so that their sum does not overflow.
const maxShare = 1_000_000

// ParseMix parses shares of the form CALL=SHARE, such as pay=15.
func ParseMix(texts []string) (Mix, error) {
	var mix Mix
	for _, text := range texts {
		name, share, _ := strings.Cut(strings.TrimSpace(text), "=")
		n, err := strconv.Atoi(share)
		call := 0
		for call < calls && callNames[call] != name {
			call++
		}
		if call == calls || err != nil || n < 0 || n > maxShare {
			return mix, fmt.Errorf("--mix: %q must be CALL=SHARE, such as pay=15; calls are %s", text, strings.Join(callNames[:], ", "))
		}
		mix[call] = n
	}
	if len(texts) > 0 && mix[Place] == 0 {
		return mix, fmt.Errorf("--mix needs a share of orders, such as order=70")
	}
	return mix, nil
}

func (m *Mix) sum() int {
	sum := 0
	for _, share := range m {
		sum += share
	}
	return sum
}

// placed is an order that the attack made: the request that made it, and its id, also as
// the service writes it.
type placed struct {
	seq  int
	id   uuid.UUID
	text string
}

// maxPlaced bounds the orders that wait to be paid or cancelled. Of more, no request will
// come to pay them soon.
const maxPlaced = 1 << 16

// made is the call that a request turned out to be.
type made struct {
	call Call
	// of is the order to be paid or cancelled.
	of placed
}

// wire is a request as it is sent, without what is the same for all. In path, / and other
// characters of an id are escaped.
type wire struct{ method, path, body string }

// wire returns what request seq sends.
func (p *Plan) wire(seq int, m made) wire {
	switch m.call {
	case Pay:
		id := url.PathEscape(m.of.text)
		return wire{http.MethodPost, "/v1/orders/" + id + "/payment", `{"reference":"payment of ` + id + `"}`} // escaped, it needs no other escapes in JSON
	case Cancel:
		return wire{http.MethodPost, "/v1/orders/" + url.PathEscape(m.of.text) + "/cancellation", ""}
	case Browse:
		if mix(p.Seed, seq, pages)%2 == 0 {
			return wire{http.MethodGet, "/v1/skus", ""}
		}
		return wire{http.MethodGet, "/v1/skus/" + p.SKUs[p.sku(seq)], ""}
	}
	return wire{http.MethodPost, "/v1/orders", `{"sku":"` + p.SKUs[p.sku(seq)] + `","quantity":` + strconv.Itoa(p.quantity(seq)) + `}`}
}
