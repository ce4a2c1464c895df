package k8slock

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"flashsale/internal/lock"
)

const (
	// minTimeout is the least that a request may take: the server syncs what it
	// acknowledges, on a disk that others use as well.
	minTimeout = time.Second
	// watchLife is when the server is to end a watch by itself. It is then opened
	// again: one that has gone silent is not waited for for ever.
	watchLife = 5 * time.Minute
	// watchPause is the wait before a watch that has broken is opened again: it
	// may break at once again.
	watchPause = 100 * time.Millisecond
	// retryPause and retryPauseMax are the waits between attempts after the
	// server could not be reached.
	retryPause    = 20 * time.Millisecond
	retryPauseMax = time.Second
	// idleConnection is when a connection that nobody uses is closed.
	idleConnection = 90 * time.Second
)

// Config says where a Locker's objects stand, and what they say.
type Config struct {
	// REST is the API server's address and how to be known there. Its limit of
	// requests a second is ignored, and so are its Transport and Dial.
	REST *rest.Config
	// Namespace of all objects. Lockers of one kind in it exclude each other.
	Namespace string
	// TTL is how long a grant survives its process. It is rounded up to whole
	// seconds.
	TTL time.Duration
	// Owner stands in each object, for people.
	Owner Owner
	// Logger gets what no caller is told: broken watches, and what the client
	// library has to say. Nil: none.
	Logger *slog.Logger
}

// Owner tells people who holds and who waits. The lock itself never reads it.
type Owner struct {
	Replica string
	Host    string
	PID     int
}

// String is the form in which it stands in the objects.
func (o Owner) String() string { return fmt.Sprintf("%s@%s:%d", o.Replica, o.Host, o.PID) }

// check refuses what cannot work, and fills in what may be left out.
func (cfg *Config) check() error {
	switch {
	case cfg.REST == nil:
		return errors.New("kubernetes lock: no API server")
	case cfg.Namespace == "":
		return errors.New("kubernetes lock: no namespace")
	case cfg.TTL <= 0:
		return fmt.Errorf("kubernetes lock: TTL %s is not positive", cfg.TTL)
	}
	cfg.TTL = (cfg.TTL + time.Second - 1).Truncate(time.Second)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// objects are those of one kind, in one namespace of one API server. Every call
// is bounded by a time-out of its own, and every error names the server.
type objects struct {
	kind      dynamic.ResourceInterface
	spaces    dynamic.ResourceInterface // the namespaces
	namespace string
	transport *http.Transport
	server    string
	timeout   time.Duration
	log       *slog.Logger
	served    atomic.Bool // the server has done as it was asked, once
}

func newObjects(cfg Config, kind schema.GroupVersionResource) (*objects, error) {
	config := rest.CopyConfig(cfg.REST)
	// The library would let five requests a second through. A renewal that waits
	// behind others for that comes too late; the server has limits of its own.
	config.QPS = -1
	config.WarningHandlerWithContext = rest.NoWarnings{}
	timeout := max(minTimeout, cfg.TTL/3)
	transport, err := newTransport(config, timeout)
	if err != nil {
		return nil, fmt.Errorf("kubernetes lock: %w", err)
	}
	wrapped, err := rest.HTTPWrappersForConfig(config, transport)
	if err != nil {
		return nil, fmt.Errorf("kubernetes lock: %w", err)
	}
	client, err := dynamic.NewForConfigAndClient(config, &http.Client{Transport: wrapped})
	if err != nil {
		return nil, fmt.Errorf("kubernetes lock: %w", err)
	}
	return &objects{
		kind:      client.Resource(kind).Namespace(cfg.Namespace),
		spaces:    client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}),
		namespace: cfg.Namespace, transport: transport, server: config.Host, timeout: timeout, log: cfg.Logger,
	}, nil
}

// newTransport is the library's, but for a server that falls silent: that one
// is noticed after three quarters of a minute, when every lease is long over.
func newTransport(config *rest.Config, silence time.Duration) (*http.Transport, error) {
	secrets, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: silence}).DialContext,
		TLSClientConfig:     secrets,
		TLSHandshakeTimeout: silence,
		ForceAttemptHTTP2:   true,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: silence, PingTimeout: silence},
		IdleConnTimeout:     idleConnection,
	}, nil
}

func (o *objects) close() { o.transport.CloseIdleConnections() }

// within bounds one request. The library logs to the context's logger.
func (o *objects) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(o.logged(ctx), o.timeout)
}

func (o *objects) logged(ctx context.Context) context.Context {
	return logr.NewContext(ctx, logr.FromSlogHandler(o.log.Handler()))
}

// named adds the server's address. A time-out of our own is not the caller's.
func (o *objects) named(ctx context.Context, err error) error {
	switch {
	case err == nil:
		o.served.Store(true)
		return nil
	case ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("kubernetes at %s: no answer within %s", o.server, o.timeout)
	}
	return fmt.Errorf("kubernetes at %s: %w", o.server, err)
}

func (o *objects) get(ctx context.Context, name string) (*unstructured.Unstructured, error) {
	bounded, cancel := o.within(ctx)
	defer cancel()
	// Without a version the answer is what stands in etcd, not in a cache.
	object, err := o.kind.Get(bounded, name, metav1.GetOptions{})
	return object, o.named(ctx, err)
}

func (o *objects) list(ctx context.Context, labels string) (*unstructured.UnstructuredList, error) {
	bounded, cancel := o.within(ctx)
	defer cancel()
	list, err := o.kind.List(bounded, metav1.ListOptions{LabelSelector: labels})
	return list, o.named(ctx, err)
}

func (o *objects) create(ctx context.Context, object *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	bounded, cancel := o.within(ctx)
	defer cancel()
	created, err := o.kind.Create(bounded, object, metav1.CreateOptions{})
	return created, o.named(ctx, err)
}

// neverMade is the name of a lock that only Ask asks for.
const neverMade = "never-made"

// ask has the server do all but store the object.
func (o *objects) ask(ctx context.Context, object *unstructured.Unstructured) error {
	bounded, cancel := o.within(ctx)
	defer cancel()
	_, err := o.kind.Create(bounded, object, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if apierrors.IsAlreadyExists(err) {
		return nil // a SKU is called that
	}
	return o.named(ctx, err)
}

// update writes the object if it is still of the version that it carries.
func (o *objects) update(ctx context.Context, object *unstructured.Unstructured, parts ...string) (*unstructured.Unstructured, error) {
	bounded, cancel := o.within(ctx)
	defer cancel()
	updated, err := o.kind.Update(bounded, object, metav1.UpdateOptions{}, parts...)
	return updated, o.named(ctx, err)
}

// watch opens a watch of one object from a version on. Its end is the caller's to
// bring about, by ctx or Stop; only the opening is bounded here.
func (o *objects) watch(ctx context.Context, name, version string) (watch.Interface, error) {
	opening, cancel := context.WithCancel(o.logged(ctx))
	late := time.AfterFunc(o.timeout, cancel)
	life := int64(watchLife / time.Second)
	events, err := o.kind.Watch(opening, metav1.ListOptions{
		FieldSelector:   fields.OneTermEqualSelector("metadata.name", name).String(),
		ResourceVersion: version, TimeoutSeconds: &life,
	})
	switch {
	case err != nil:
		cancel()
		return nil, o.named(ctx, err)
	case !late.Stop():
		events.Stop()
		return nil, fmt.Errorf("kubernetes at %s: no watch within %s", o.server, o.timeout)
	}
	return &watching{Interface: events, cancel: cancel}, nil
}

// watching ends its request with the watch.
type watching struct {
	watch.Interface
	cancel context.CancelFunc
}

func (w *watching) Stop() {
	w.Interface.Stop()
	w.cancel()
}

// source is the identity of whatever counts the tokens: the counters are gone
// when their namespace is.
func (o *objects) source(ctx context.Context) (string, error) {
	bounded, cancel := o.within(ctx)
	defer cancel()
	space, err := o.spaces.Get(bounded, o.namespace, metav1.GetOptions{})
	if err != nil {
		return "", o.named(ctx, err)
	}
	return string(space.GetUID()), nil
}

// isFinal says that no other attempt will succeed. A server that cannot be reached
// comes back. One that has just started refuses everybody, and knows of no custom
// resource, until it has read its own objects: who was served before waits.
func (o *objects) isFinal(err error) bool {
	for _, wrong := range []func(error) bool{
		apierrors.IsInvalid, apierrors.IsBadRequest, apierrors.IsMethodNotSupported, apierrors.IsRequestEntityTooLargeError,
	} {
		if wrong(err) {
			return true
		}
	}
	refused := apierrors.IsUnauthorized(err) || apierrors.IsForbidden(err) || apierrors.IsNotFound(err)
	return refused && !o.served.Load() || errors.Is(err, errNotOurs) || errors.Is(err, errExhausted)
}

// isMissing says that there is no such object. Without the resource, or before the
// server has found it, an answer of the same number comes from nobody in
// particular: that says nothing of the object.
func isMissing(err error) bool {
	return apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

var errNotOurs = errors.New("the object is another lock's")

const (
	// readable is how much of a name stands in its object's name as it is.
	readable = 40
	// hashed is how many bytes of its hash follow: two names that meet there are
	// told apart by the name inside the object, and refused.
	hashed = 10
)

// objectName is the name of a lock's object. Such names are of small letters,
// digits and dashes, and at most 253 bytes: the lock's name stands in it for
// people alone, and its hash is what tells "Sku" from "sku".
func objectName(name string) (string, error) {
	if err := lock.CheckName(name); err != nil {
		return "", err
	}
	if !utf8.ValidString(name) {
		return "", fmt.Errorf("lock name %q is not UTF-8, which is all that Kubernetes takes", name)
	}
	var b strings.Builder
	for _, r := range strings.ToLower(name) {
		if b.Len() == readable {
			break
		}
		if r < 'a' || r > 'z' {
			if r < '0' || r > '9' {
				r = '-'
			}
		}
		b.WriteRune(r)
	}
	sum := sha256.Sum256([]byte(name))
	return "lock-" + b.String() + "-" + hex.EncodeToString(sum[:hashed]), nil
}
