// Package pods sells on a real Kubernetes of one node. It applies deploy/kubernetes as it
// is, but for the images and the storage class, and starts replicas of further strategies
// beside those of the manifests. It attacks each strategy through its ClusterIP, and updates
// the service and deletes pods under load. The orders are then read from MySQL, and each is
// matched with its answer.
package pods

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"flashsale/internal/sandbox"
	"flashsale/loadtest/proof"
)

// Config is what Run needs.
type Config struct {
	// API is the path of bin/api, which must be linked statically.
	API  string
	Seed uint64
	// Say gets a line about each step.
	Say func(format string, args ...any)
	// Keep, if set, is called with the node at the end, which is then not closed.
	Keep func(*sandbox.Node) error
}

// Result is what the sales showed. As JSON it is out/kubernetes.json.
type Result struct {
	Database string `json:"database"`
	// NodeReadyMS is the time until the node ran pods, ServiceReadyMS the time from the
	// manifests to the first answer of the service, and TookMS that of the whole run.
	NodeReadyMS    float64 `json:"node_ready_ms"`
	ServiceReadyMS float64 `json:"service_ready_ms"`
	TookMS         float64 `json:"took_ms"`
	// Memory is that of the node's own programs, in bytes.
	Memory map[string]int64 `json:"memory_bytes"`
	Sales  []Sale           `json:"sales"`
	// StockLocks is what `kubectl get stocklocks` prints of the last sale's SKU.
	StockLocks string `json:"stocklocks"`
	// Audit: the CronJob of the audit, run once after the first strategy's sales, found nothing.
	Audit bool `json:"audit"`
	OK    bool `json:"ok"`
}

// ControlPlane is the memory of the node's own programs together, in bytes.
func (r *Result) ControlPlane() (sum int64) {
	for n := range maps.Values(r.Memory) {
		sum += n
	}
	return sum
}

// Sale is one attack.
type Sale struct {
	Strategy string `json:"strategy"`
	// During says what was done under load; "" if nothing was.
	During string `json:"during,omitempty"`
	// Did says to which pod it was done, or to how many replicas.
	Did string `json:"did,omitempty"`
	proof.Run
	// NoSaleMS is the longest time without a sale from then on.
	NoSaleMS float64 `json:"no_sale_ms"`
	// Ending is the replicas' pods that were still ending when the load ended: what they did
	// at their end was done to no buyer.
	Ending     []string `json:"ending,omitempty"`
	Violations []string `json:"violations"`
}

// The sales, in their order. Those without a disturbance sell out.
var sales = []struct {
	strategy string
	during   *disturbance
}{
	{first, nil},
	{first, &update},
	{first, &replicaDeleted},
	{first, &etcdLeaderDeleted},
	{first, &primaryDeleted},
	{"zookeeper", nil},
	{"zookeeper", &zookeeperLeaderDeleted},
	{"kubernetes", nil},
	{"kubernetes-stocklock", nil},
}

// first is the strategy of the manifests.
const first = "etcd"

// others are the strategies after the first.
func others() (names []string) {
	for _, s := range sales {
		if s.strategy != first && !slices.Contains(names, s.strategy) {
			names = append(names, s.strategy)
		}
	}
	return names
}

// sellAll makes all sales. The replicas of the next strategy start during the last sale of
// the one before. The database of the first is audited while the others sell in theirs. It
// returns the shop of the last sale.
func (s *shop) sellAll(ctx context.Context, result *Result) (*shop, error) {
	ctx, cancel := context.WithCancel(ctx)
	var starting, auditing errgroup.Group
	defer func() { cancel(); _, _ = starting.Wait(), auditing.Wait() }()
	at, next := s, (*shop)(nil)
	for i, planned := range sales {
		if planned.strategy != at.strategy {
			if err := starting.Wait(); err != nil {
				return nil, fmt.Errorf("start replicas under %s: %w", planned.strategy, err)
			}
			at = next
		}
		if i+1 < len(sales) && sales[i+1].strategy != planned.strategy {
			beside := *s
			next = &beside
			starting.Go(func() error { return beside.startBeside(ctx, sales[i+1].strategy) })
		}
		sale, err := at.sell(ctx, i, planned.during)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", planned.strategy, err)
		}
		result.Sales = append(result.Sales, *sale)
		s.cfg.Say("%s", sale)
		if planned.strategy == first && sales[i+1].strategy != first {
			auditing.Go(func() (err error) {
				result.Audit, err = s.audit(ctx)
				return err
			})
		}
	}
	return at, auditing.Wait()
}

// ErrNoNode means that this machine cannot run a node. The error says why.
var ErrNoNode = errors.New("no Kubernetes node can run here")

// Run starts a node, sells on it and ends it. An error means that a step could not be
// made; the result then has what was found before.
func Run(ctx context.Context, cfg Config) (result *Result, err error) {
	began := time.Now()
	result = &Result{}
	_, noMySQL := sandbox.MySQLImage(mysqlImage)
	if err := errors.Join(sandbox.CheckNode(ctx), noMySQL, sandbox.FindZooKeeper()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoNode, err)
	}
	var saying sync.Mutex // the audit runs beside the sales
	say := cfg.Say
	cfg.Say = func(format string, args ...any) {
		saying.Lock()
		defer saying.Unlock()
		say(format, args...)
	}
	cfg.Say("Starting a Kubernetes node ...")
	node, err := sandbox.StartNode(ctx)
	if err != nil {
		return nil, err
	}
	result.NodeReadyMS = proof.Millis(time.Since(began))
	kept := false
	defer func() {
		if !kept {
			err = errors.Join(err, node.Close())
		}
		result.TookMS = proof.Millis(time.Since(began))
	}()
	shop, err := open(ctx, cfg, node)
	if err != nil {
		return result, err
	}
	result.ServiceReadyMS = proof.Millis(shop.ready)
	result.Database = shop.version
	last, err := shop.sellAll(ctx, result)
	if err != nil {
		return result, err
	}
	if err := shop.whole(ctx); err != nil {
		return result, err
	}
	if result.StockLocks, err = last.stockLocks(ctx); err != nil {
		return result, err
	}
	if result.Memory, err = node.Memory(); err != nil {
		return result, err
	}
	result.OK = result.Audit && !slices.ContainsFunc(result.Sales, func(s Sale) bool { return len(s.Violations) > 0 })
	if cfg.Keep != nil {
		kept = true
		return result, cfg.Keep(node)
	}
	return result, nil
}
