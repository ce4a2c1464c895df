package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// holds reads from the service's replicas for how long they have held locks,
// between two moments. It counts a tenure when it has ended, so that it is wrong
// by the length of one at each end.
type holds struct {
	urls  []string
	first float64 // seconds
	began time.Time
	// share of the time in which one of the replicas held, after two readings;
	// meaningful for one SKU.
	share float64
	err   error
}

// read is called at the beginning and at the end of the window.
func (h *holds) read(ctx context.Context) {
	sum := 0.0
	now := time.Now()
	for _, url := range h.urls {
		seconds, err := heldBy(ctx, url)
		h.err = errors.Join(h.err, err)
		sum += seconds
	}
	if h.began.IsZero() {
		h.first, h.began = sum, now
		return
	}
	h.share = (sum - h.first) / now.Sub(h.began).Seconds()
}

// heldBy reads one replica's metric.
func heldBy(ctx context.Context, url string) (seconds float64, err error) {
	const name = "flashsale_lock_hold_seconds_sum "
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", http.NoBody)
	if err != nil {
		return 0, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), name); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("GET %s/metrics: no %s", url, strings.TrimSpace(name))
}
