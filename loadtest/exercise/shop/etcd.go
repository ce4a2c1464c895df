package shop

import (
	"context"
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.uber.org/zap"
)

// newClient connects to etcd. The client sees only the keys of this round. If steps is not nil,
// its requests are steps, but for the streams of watches and renewals.
func newClient(endpoint, prefix string, steps *steps) (*clientv3.Client, error) {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		return nil, err
	}
	client.KV = namespace.NewKV(client.KV, prefix)
	client.Watcher = namespace.NewWatcher(client.Watcher, prefix)
	if steps != nil {
		client.KV, client.Lease = kv{client.KV, steps}, leases{client.Lease, steps}
	}
	return client, nil
}

// kv makes steps of the requests of a clientv3.KV.
type kv struct {
	clientv3.KV
	steps *steps
}

func (k kv) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	answer, err := k.Do(ctx, clientv3.OpGet(key, opts...))
	return answer.Get(), err
}

func (k kv) Put(ctx context.Context, key, value string, opts ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	answer, err := k.Do(ctx, clientv3.OpPut(key, value, opts...))
	return answer.Put(), err
}

func (k kv) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	answer, err := k.Do(ctx, clientv3.OpDelete(key, opts...))
	return answer.Del(), err
}

func (k kv) Do(ctx context.Context, op clientv3.Op) (answer clientv3.OpResponse, err error) {
	if op.IsTxn() {
		cmps, then, otherwise := op.Txn()
		txn, err := k.Txn(ctx).If(cmps...).Then(then...).Else(otherwise...).Commit()
		if err != nil {
			return answer, err
		}
		return txn.OpResponse(), nil
	}
	err = k.steps.take(ctx, inEtcd, opText(op), func() (result string, err error) {
		answer, err = k.KV.Do(ctx, op)
		switch {
		case err != nil:
		case op.IsGet():
			result = plural(answer.Get().Count, "key")
		case op.IsDelete():
			result = plural(answer.Del().Deleted, "key") + " deleted"
		}
		return result, err
	})
	return answer, err
}

func (k kv) Txn(ctx context.Context) clientv3.Txn {
	return &txn{ctx: ctx, inner: k.KV.Txn(ctx), steps: k.steps}
}

type txn struct {
	ctx   context.Context
	inner clientv3.Txn
	steps *steps
	text  []string
}

func (t *txn) If(cmps ...clientv3.Cmp) clientv3.Txn {
	t.inner = t.inner.If(cmps...)
	return t.add("if", " and ", texts(cmps, cmpText))
}

func (t *txn) Then(ops ...clientv3.Op) clientv3.Txn {
	t.inner = t.inner.Then(ops...)
	return t.add("then", ", ", texts(ops, opText))
}

func (t *txn) Else(ops ...clientv3.Op) clientv3.Txn {
	t.inner = t.inner.Else(ops...)
	return t.add("else", ", ", texts(ops, opText))
}

func (t *txn) add(word, separator string, parts []string) clientv3.Txn {
	if len(parts) > 0 {
		t.text = append(t.text, word, strings.Join(parts, separator))
	}
	return t
}

func (t *txn) Commit() (answer *clientv3.TxnResponse, err error) {
	err = t.steps.take(t.ctx, inEtcd, strings.Join(t.text, " "), func() (string, error) {
		answer, err = t.inner.Commit()
		switch {
		case err != nil:
			return "", err
		case answer.Succeeded:
			return "true", nil
		}
		return "false", nil
	})
	return answer, err
}

// leases makes steps of grants and revocations.
type leases struct {
	clientv3.Lease
	steps *steps
}

func (l leases) Grant(ctx context.Context, ttl int64) (answer *clientv3.LeaseGrantResponse, err error) {
	err = l.steps.take(ctx, inEtcd, fmt.Sprintf("grant a lease of %d s", ttl), func() (string, error) {
		answer, err = l.Lease.Grant(ctx, ttl)
		return "", err
	})
	return answer, err
}

func (l leases) Revoke(ctx context.Context, id clientv3.LeaseID) (answer *clientv3.LeaseRevokeResponse, err error) {
	err = l.steps.take(ctx, inEtcd, "revoke its lease", func() (string, error) {
		answer, err = l.Lease.Revoke(ctx, id)
		return "", err
	})
	return answer, err
}

func texts[T any](all []T, text func(T) string) []string {
	parts := make([]string, len(all))
	for i, one := range all {
		parts[i] = text(one)
	}
	return parts
}

func opText(op clientv3.Op) string {
	key := string(op.KeyBytes())
	if op.RangeBytes() != nil {
		key += "*"
	}
	switch {
	case op.IsGet():
		return "get " + key
	case op.IsPut():
		return fmt.Sprintf("put %s = %q", key, op.ValueBytes())
	case op.IsDelete():
		return "delete " + key
	}
	return "a transaction"
}

func cmpText(cmp clientv3.Cmp) string {
	compare := cmp.GetCompare()
	var value any
	switch of := compare.TargetUnion.(type) {
	case *pb.Compare_CreateRevision:
		value = of.CreateRevision
	case *pb.Compare_ModRevision:
		value = of.ModRevision
	case *pb.Compare_Version:
		value = of.Version
	case *pb.Compare_Lease:
		value = of.Lease
	case *pb.Compare_Value:
		value = fmt.Sprintf("%q", of.Value)
	}
	sign := map[pb.Compare_CompareResult]string{
		pb.Compare_EQUAL: "=", pb.Compare_GREATER: ">", pb.Compare_LESS: "<", pb.Compare_NOT_EQUAL: "!=",
	}[compare.Result]
	return fmt.Sprintf("%s(%s) %s %v", strings.ToLower(compare.Target.String()), compare.Key, sign, value)
}
