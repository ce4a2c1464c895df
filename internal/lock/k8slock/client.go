package k8slock

import (
	"cmp"
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

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"flashsale/internal/lock"
	"flashsale/internal/sleep"
)

const (
	// minTimeout is the shortest time-out of a request. The server syncs each write to
	// a disk that others use as well.
	minTimeout = time.Second
	// watchLife is when the server ends a watch. The client then opens another, so
	// that it does not wait forever for one that has gone silent.
	watchLife = 5 * time.Minute
	// watchPause is the wait before a broken watch is opened again.
	watchPause = 100 * time.Millisecond
)

// backoff is the wait between attempts while the server is unreachable.
var backoff = sleep.Backoff{Min: 20 * time.Millisecond, Max: time.Second}

// Config configures a Locker.
type Config struct {
	// REST is the API server's address and credentials. Its QPS, Transport and Dial
	// are ignored.
	REST *rest.Config
	// Namespace of all objects. Lockers of one kind in it exclude each other.
	Namespace string
	// TTL is how long a grant survives its process. It is rounded up to whole
	// seconds.
	TTL time.Duration
	// Owner is written into each object, for people: replica@host:pid.
	Owner string
	// Logger is optional. It logs broken watches, events that cannot be written, and the
	// client library's log.
	Logger *slog.Logger
}

func (cfg *Config) check() error {
	switch {
	case cfg.REST == nil:
		return errors.New("kubernetes lock: REST is missing")
	case cfg.Namespace == "":
		return errors.New("kubernetes lock: Namespace is missing")
	case cfg.TTL <= 0:
		return fmt.Errorf("kubernetes lock: TTL is %s; it must be positive", cfg.TTL)
	}
	cfg.TTL = (cfg.TTL + time.Second - 1).Truncate(time.Second)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	return nil
}

// objects are the objects of one kind, in one namespace of one API server. T is the
// kind's type. Every call has a time-out of its own, and every error names the server.
type objects[T any] struct {
	resource   schema.GroupVersionResource
	kind       dynamic.ResourceInterface
	namespaces dynamic.ResourceInterface // the namespaces
	events     dynamic.ResourceInterface // the namespace's events
	namespace  string
	transport  *http.Transport
	server     string
	timeout    time.Duration
	log        *slog.Logger
	served     atomic.Bool // a request has succeeded
}

// newObjects validates cfg and sets its defaults.
func newObjects[T any](cfg *Config, resource schema.GroupVersionResource) (*objects[T], error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	config := rest.CopyConfig(cfg.REST)
	// The library's default of five requests a second would delay renewals. The server
	// has limits of its own.
	config.QPS = -1
	config.WarningHandlerWithContext = rest.NoWarnings{}
	timeout := max(minTimeout, cfg.TTL/3)
	secrets, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, fmt.Errorf("kubernetes lock: %w", err)
	}
	// Like the library's transport, except that it leaves a silent server sooner. The
	// library takes 45 seconds, when every lease has ended.
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: timeout}).DialContext,
		TLSClientConfig:     secrets,
		TLSHandshakeTimeout: timeout,
		ForceAttemptHTTP2:   true,
		HTTP2:               &http.HTTP2Config{SendPingTimeout: timeout, PingTimeout: timeout},
		IdleConnTimeout:     90 * time.Second,
	}
	wrapped, err := rest.HTTPWrappersForConfig(config, transport)
	if err != nil {
		return nil, fmt.Errorf("kubernetes lock: %w", err)
	}
	client, err := dynamic.NewForConfigAndClient(config, &http.Client{Transport: wrapped})
	if err != nil {
		return nil, fmt.Errorf("kubernetes lock: %w", err)
	}
	return &objects[T]{
		resource: resource, kind: client.Resource(resource).Namespace(cfg.Namespace),
		namespaces: client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}),
		events:     client.Resource(eventKind).Namespace(cfg.Namespace),
		namespace:  cfg.Namespace, transport: transport, server: config.Host, timeout: timeout, log: cfg.Logger,
	}, nil
}

func (o *objects[T]) close() error {
	o.transport.CloseIdleConnections()
	return nil
}

// send sends one request with a time-out. Its error names the action and the server.
func send[T, R any](ctx context.Context, o *objects[T], action string, request func(context.Context) (R, error)) (R, error) {
	bounded, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	result, err := request(bounded)
	if err != nil {
		return result, o.failed(ctx, action, err)
	}
	o.served.Store(true)
	return result, nil
}

func (o *objects[T]) call(ctx context.Context, action, name string,
	request func(context.Context) (*unstructured.Unstructured, error)) (*T, error) {
	object, err := send(ctx, o, action+" "+o.resource.Resource+"/"+name, request)
	if err != nil {
		return nil, err
	}
	return decode[T](object)
}

// failed adds the action and the server to an error. It does not wrap the time-out of a
// request: the caller must not mistake it for its own.
func (o *objects[T]) failed(ctx context.Context, action string, err error) error {
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: kubernetes at %s: no answer within %s", action, o.server, o.timeout)
	}
	return fmt.Errorf("%s: kubernetes at %s: %w", action, o.server, err)
}

func (o *objects[T]) get(ctx context.Context, name string) (*T, error) {
	return o.call(ctx, "read", name, func(ctx context.Context) (*unstructured.Unstructured, error) {
		// Without a version, the server answers from etcd and not from a cache.
		return o.kind.Get(ctx, name, metav1.GetOptions{})
	})
}

func (o *objects[T]) list(ctx context.Context, labels string) (all []*T, err error) {
	list, err := send(ctx, o, "list "+o.resource.Resource, func(ctx context.Context) (*unstructured.UnstructuredList, error) {
		return o.kind.List(ctx, metav1.ListOptions{LabelSelector: labels})
	})
	if err != nil {
		return nil, err
	}
	for i := range list.Items {
		object, err := decode[T](&list.Items[i])
		if err != nil {
			return nil, err
		}
		all = append(all, object)
	}
	return all, nil
}

// create creates the object without its status, which has requests of its own.
func (o *objects[T]) create(ctx context.Context, made *T, dryRun ...string) (*T, error) {
	object, err := encode(made)
	if err != nil {
		return nil, err
	}
	delete(object.Object, "status")
	return o.call(ctx, "create", object.GetName(), func(ctx context.Context) (*unstructured.Unstructured, error) {
		return o.kind.Create(ctx, object, metav1.CreateOptions{DryRun: dryRun})
	})
}

// probeName is the lock name of the object in ask.
const probeName = "never-made"

// ask asks whether the server would create an object. It creates none.
func (o *objects[T]) ask(ctx context.Context, made *T) error {
	_, err := o.create(ctx, made, metav1.DryRunAll)
	if apierrors.IsAlreadyExists(err) { // a SKU has the name
		return nil
	}
	return err
}

// update writes the object if it still has the version in next. subresource is
// optional.
func (o *objects[T]) update(ctx context.Context, next *T, subresource ...string) (*T, error) {
	object, err := encode(next)
	if err != nil {
		return nil, err
	}
	return o.call(ctx, "update", object.GetName(), func(ctx context.Context) (*unstructured.Unstructured, error) {
		return o.kind.Update(ctx, object, metav1.UpdateOptions{}, subresource...)
	})
}

// revoke removes the holder of an object by free, which reports whether there was one.
func (o *objects[T]) revoke(ctx context.Context, name string, free func(*T) bool, subresource ...string) error {
	object, err := objectName(name)
	if err != nil {
		return err
	}
	for {
		current, err := o.get(ctx, object)
		if isMissing(err) || err == nil && !free(current) {
			err = lock.ErrNotHeld
		}
		if err == nil {
			_, err = o.update(ctx, current, subresource...)
		}
		switch {
		case err == nil:
			return nil
		case !apierrors.IsConflict(err):
			return fmt.Errorf("revoke %s: %w", name, err)
		}
	}
}

// watch opens a watch of one object that starts after version. The time-out applies to
// the opening only. The watch ends with ctx or by Stop.
func (o *objects[T]) watch(ctx context.Context, name, version string) (watch.Interface, error) {
	opening, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(o.timeout, cancel)
	life := int64(watchLife / time.Second)
	events, err := o.kind.Watch(opening, metav1.ListOptions{
		FieldSelector:   fields.OneTermEqualSelector("metadata.name", name).String(),
		ResourceVersion: version, TimeoutSeconds: &life,
	})
	if !late.Stop() {
		if err == nil {
			events.Stop()
		}
		err = context.DeadlineExceeded
	}
	if err != nil {
		cancel()
		return nil, o.failed(ctx, "watch "+o.resource.Resource+"/"+name, err)
	}
	o.served.Store(true)
	return &watching{Interface: events, cancel: cancel}, nil
}

// watching is a watch whose Stop also ends the request.
type watching struct {
	watch.Interface
	cancel context.CancelFunc
}

func (w *watching) Stop() {
	w.Interface.Stop()
	w.cancel()
}

// Source returns the identity of the namespace. The token counters of all locks in it
// are lost if it is deleted.
func (o *objects[T]) Source(ctx context.Context) (string, error) {
	space, err := send(ctx, o, "read namespace "+o.namespace, func(ctx context.Context) (*unstructured.Unstructured, error) {
		return o.namespaces.Get(ctx, o.namespace, metav1.GetOptions{})
	})
	if err != nil {
		return "", err
	}
	return string(space.GetUID()), nil
}

// isFinal reports whether a retry is pointless. A starting server refuses all requests
// and knows no custom resources, so a client that was served before retries refusals.
func (o *objects[T]) isFinal(err error) bool {
	if apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsMethodNotSupported(err) ||
		apierrors.IsRequestEntityTooLargeError(err) || errors.Is(err, errNotOurs) || errors.Is(err, errExhausted) {
		return true
	}
	refused := apierrors.IsUnauthorized(err) || apierrors.IsForbidden(err) || apierrors.IsNotFound(err)
	return refused && !o.served.Load()
}

// isMissing reports whether the object does not exist. A generic 404 proves nothing
// about the object: the server sends it while it does not know the resource.
func isMissing(err error) bool {
	return apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

// decode converts an object into its type, without the managed fields, which the server
// does not need back.
func decode[T any](object *unstructured.Unstructured) (*T, error) {
	object.SetManagedFields(nil)
	found := new(T)
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, found); err != nil {
		return nil, fmt.Errorf("decode %s %s: %w", object.GetKind(), object.GetName(), err)
	}
	return found, nil
}

// decodeEvent returns the object of a watch's event. The watch must be closed after an
// error.
func decodeEvent[T any](event watch.Event, open bool) (*T, error) {
	switch object, _ := event.Object.(*unstructured.Unstructured); {
	case !open:
		return nil, errors.New("the watch has ended")
	case event.Type == watch.Deleted:
		return nil, errDeleted
	case event.Type == watch.Error || object == nil:
		return nil, apierrors.FromObject(event.Object)
	default:
		return decode[T](object)
	}
}

func encode(object any) (*unstructured.Unstructured, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	return &unstructured.Unstructured{Object: content}, err
}

var (
	errDeleted = errors.New("the object was deleted")
	errNotOurs = errors.New("the object belongs to another lock")
	// errExhausted is for a Lease after 2^31-1 grants.
	errExhausted = errors.New("leaseTransitions, the token, cannot rise any more")
)

const (
	// readable is how many characters of a lock's name are in its object's name.
	readable = 40
	// hashed is how many bytes of its hash follow. Of two names with the same hash, the
	// second is refused, because the object contains the first.
	hashed = 10
)

// objectName returns the name of a lock's object, which must consist of lower-case
// letters, digits and dashes. The hash distinguishes "Sku" from "sku".
func objectName(name string) (string, error) {
	if err := lock.CheckName(name); err != nil {
		return "", err
	}
	if !utf8.ValidString(name) {
		return "", fmt.Errorf("lock name %q is not valid UTF-8, which Kubernetes requires", name)
	}
	text := strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(name))
	sum := sha256.Sum256([]byte(name))
	return "lock-" + text[:min(len(text), readable)] + "-" + hex.EncodeToString(sum[:hashed]), nil
}
