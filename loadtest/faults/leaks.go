package faults

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"flashsale/internal/sleep"
)

const (
	// settleTime bounds the wait until nothing is left of a run: idle connections, links
	// and leases of killed replicas end by themselves.
	settleTime = 20 * time.Second
	// spareGoroutines is what an idle replica may have beyond its first count, apart from
	// its pool, whose connections have one each: links and watches.
	spareGoroutines = 40
)

// end checks that the replicas, once idle, keep nothing of the load, stops everything, and
// checks that nothing is left. before is the number of goroutines of this process before
// the run. It returns what is left. After ctx's end it only stops.
func (r *run) end(ctx context.Context, before int) (left []string) {
	if ctx.Err() != nil {
		_ = r.stop()
		return nil
	}
	check := func(what string, ask func(context.Context) (string, error)) {
		ctx, cancel := context.WithTimeout(ctx, settleTime+2*r.LockTTL)
		defer cancel()
		found, err := ask(ctx)
		for (found != "" || err != nil) && sleep.For(ctx, tryPause) == nil {
			found, err = ask(ctx)
		}
		if err != nil {
			found = err.Error()
		}
		if found != "" {
			left = append(left, what+": "+found)
		}
	}
	for _, replica := range r.fleet.Replicas {
		check("goroutines of "+replica.Name, func(ctx context.Context) (string, error) {
			n, err := goroutines(ctx, replica.URL)
			if err == nil && n > r.idle[replica.Name]+pool+spareGoroutines {
				return fmt.Sprintf("%d, and %d before the load", n, r.idle[replica.Name]), nil
			}
			return "", err
		})
	}
	pids := r.fleet.Pids()
	if err := r.fleet.Stop(); err != nil {
		left = append(left, err.Error())
	}
	check("leases in etcd after the replicas ended", func(ctx context.Context) (string, error) {
		list, err := r.etcd.Leases(ctx)
		if err != nil || len(list.Leases) == 0 {
			return "", err
		}
		return fmt.Sprint(len(list.Leases)), nil
	})
	check("locks in etcd after the replicas ended", func(ctx context.Context) (string, error) {
		got, err := r.etcd.Get(ctx, lockPrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil || len(got.Kvs) == 0 {
			return "", err
		}
		return string(got.Kvs[0].Key), nil
	})
	check("connections to the database after the replicas ended", func(ctx context.Context) (string, error) {
		_ = r.db.Close()
		for _, m := range r.databases() {
			all, err := m.Connections(ctx)
			if err != nil {
				return "", err
			}
			for _, c := range all {
				if c.Database == databaseName {
					return fmt.Sprintf("%s: %s", c.Command, c.Info), nil
				}
			}
		}
		return "", nil
	})
	for _, m := range r.databases() {
		pids = append(pids, m.Pid())
	}
	for _, node := range r.stack.Etcd {
		pids = append(pids, node.Pid())
	}
	if err := r.stop(); err != nil {
		left = append(left, err.Error())
	}
	check("a process", func(context.Context) (string, error) {
		for _, pid := range pids {
			if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err == nil {
				return strconv.Itoa(pid), nil
			}
		}
		return "", nil
	})
	check("left of the servers", func(context.Context) (string, error) { return strings.Join(r.stack.Left(), ", "), nil })
	http.DefaultClient.CloseIdleConnections()
	check("goroutines of this process", func(context.Context) (string, error) {
		if n := runtime.NumGoroutine(); n > before+2 {
			return fmt.Sprintf("%d, and %d before the run", n, before), nil
		}
		return "", nil
	})
	return left
}

// goroutines reads a replica's number of goroutines from its metrics.
func goroutines(ctx context.Context, url string) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", http.NoBody)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if n, ok := strings.CutPrefix(lines.Text(), "go_goroutines "); ok {
			return strconv.Atoi(n)
		}
	}
	return 0, fmt.Errorf("%s/metrics: no go_goroutines", url)
}
