package backend

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"flashsale/internal/lock"
	"flashsale/internal/lock/k8slock"
	"flashsale/internal/strategy"
)

func (s *Servers) checkKube() error {
	switch {
	case s.KubeServer != "" && s.Kubeconfig != "":
		return errors.New("--kubeconfig and --kube-server are mutually exclusive")
	case s.KubeServer != "":
		if u, err := url.Parse(s.KubeServer); err != nil || u.Host == "" {
			return fmt.Errorf("--kube-server: %q is not a URL with a host", s.KubeServer)
		}
	case s.Kubeconfig == "" && os.Getenv("KUBERNETES_SERVICE_HOST") == "":
		return errors.New("--kubeconfig or --kube-server is missing, and this is not a pod")
	}
	return nil
}

// kubeConfig returns the configuration of the client, which reads a token file again when
// the file changes.
func (s *Servers) kubeConfig() (*rest.Config, error) {
	switch {
	case s.KubeServer != "":
		return &rest.Config{Host: s.KubeServer, BearerTokenFile: s.KubeTokenFile, TLSClientConfig: rest.TLSClientConfig{CAFile: s.KubeCA}}, nil
	case s.Kubeconfig != "":
		cfg, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("--kubeconfig: %w", err)
		}
		return cfg, nil
	}
	return rest.InClusterConfig()
}

func (s *Servers) kubeAddress() string {
	cfg, err := s.kubeConfig()
	if err != nil {
		return s.Kubeconfig
	}
	return cfg.Host
}

// kubeLocker is a lock in the Kubernetes API server.
type kubeLocker interface {
	lock.Locker
	// Source identifies the namespace that the tokens are counted in.
	Source(context.Context) (string, error)
	// Ask sends a dry run of creating an object.
	Ask(context.Context) error
}

// inKubernetes opens a lock in the API server. Its objects do not contain the database's
// name, so each database needs a namespace of its own.
func inKubernetes[L kubeLocker](newLocker func(k8slock.Config) (L, error)) opener {
	return func(ctx context.Context, cfg *Config) (*Backend, error) {
		at, err := cfg.Servers.kubeConfig()
		if err != nil {
			return nil, err
		}
		locker, err := newLocker(k8slock.Config{
			REST: at, Namespace: cfg.Servers.KubeNamespace, TTL: cfg.TTL, Logger: cfg.Logger,
			Owner: cfg.owner(),
		})
		if err != nil {
			return nil, err
		}
		uid, err := locker.Source(ctx)
		if err != nil {
			return nil, errors.Join(err, locker.Close(ctx))
		}
		return &Backend{
			Locker: locker, Source: "kubernetes namespace " + uid,
			ping: func(ctx context.Context) error {
				err := locker.Ask(ctx)
				if answer := apierrors.APIStatus(nil); errors.As(err, &answer) {
					return noWrites(err)
				}
				return err
			},
		}, nil
	}
}

// kubeRights are the rights of deploy/kubernetes/locks/rbac.yaml that each lock requires.
var kubeRights = map[strategy.Lock][]kubeRight{
	strategy.Lease: {{"coordination.k8s.io", "leases", "", []string{"get", "list", "watch", "create", "update"}}},
	strategy.StockLock: {
		{"flashsale.internal", "stocklocks", "", []string{"get", "list", "watch", "create"}},
		{"flashsale.internal", "stocklocks", "status", []string{"update"}},
	},
}

// eventRight is for the events on StockLocks, which the lock does not require.
var eventRight = kubeRight{"", "events", "", []string{"create", "patch"}}

type kubeRight struct {
	group, resource, subresource string
	verbs                        []string
}

func examineKubernetes(ctx context.Context, e *examination) error {
	ctx, cancel := context.WithTimeout(ctx, 2*examineTimeout)
	defer cancel()
	cfg, err := e.servers.kubeConfig()
	if err != nil {
		return err
	}
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return err
	}
	at, _, err := rest.DefaultServerUrlFor(cfg)
	if err != nil {
		return err
	}
	k := kubeServer{client, strings.TrimSuffix(at.String(), "/")}
	var version struct{ GitVersion string }
	if err := k.call(ctx, http.MethodGet, "/version", nil, &version); err != nil {
		return err
	}
	e.Fine("version", "%s", version.GitVersion)
	if e.strategy.Lock == strategy.StockLock {
		if err := k.call(ctx, http.MethodGet, "/apis/flashsale.internal/v1", nil, new(struct{})); err != nil {
			e.Fault("custom resource", "kubectl apply -f deploy/kubernetes/locks/stocklock.yaml", "StockLock is not installed: %v", err)
		} else {
			e.Fine("custom resource", "StockLock is installed")
		}
	}
	grant := "kubectl apply -n " + e.servers.KubeNamespace + " -f deploy/kubernetes/locks/rbac.yaml, and run with its service account"
	missing, err := k.missing(ctx, e.servers.KubeNamespace, append(kubeRights[e.strategy.Lock], kubeRight{"", "namespaces", "", []string{"get"}}))
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		e.Fault("rights", grant, "the account may not: %s", strings.Join(missing, ", "))
		return nil
	}
	e.Fine("rights", "all that the lock requires")
	if e.strategy.Lock == strategy.StockLock {
		missing, err := k.missing(ctx, e.servers.KubeNamespace, []kubeRight{eventRight})
		switch {
		case err != nil:
			return err
		case len(missing) > 0:
			e.Warn("events", grant, "kubectl events shows no locks: the account may not: %s", strings.Join(missing, ", "))
		default:
			e.Fine("events", "may be written")
		}
	}
	if err := k.call(ctx, http.MethodGet, "/api/v1/namespaces/"+e.servers.KubeNamespace, nil, new(struct{})); err != nil {
		e.Fault("namespace", "kubectl create namespace "+e.servers.KubeNamespace+", or correct --kube-namespace", "%v", err)
	}
	return nil
}

// kubeServer calls the API server with net/http, because three calls need no typed client.
type kubeServer struct {
	*http.Client
	host string
}

func (k kubeServer) call(ctx context.Context, method, path string, body, answer any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, method, k.host+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := k.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode >= http.StatusMultipleChoices {
		err := apierrors.NewGenericServerResponse(response.StatusCode, strings.ToLower(method), schema.GroupResource{}, path, "", 0, false)
		return fmt.Errorf("%s: %w", response.Status, err)
	}
	return json.NewDecoder(io.LimitReader(response.Body, maxAnswer)).Decode(answer)
}

// missing returns those of the rights that this account does not have.
func (k kubeServer) missing(ctx context.Context, namespace string, rights []kubeRight) (missing []string, err error) {
	for _, right := range rights {
		for _, verb := range right.verbs {
			allowed, err := k.may(ctx, namespace, verb, right)
			if err != nil {
				return nil, err
			}
			if !allowed {
				missing = append(missing, strings.TrimSuffix(verb+" "+right.resource+"/"+right.subresource, "/"))
			}
		}
	}
	return missing, nil
}

// may reports whether this account has a right. Every account may ask that.
func (k kubeServer) may(ctx context.Context, namespace, verb string, right kubeRight) (bool, error) {
	attributes := map[string]string{"namespace": namespace, "verb": verb, "group": right.group, "resource": right.resource, "subresource": right.subresource}
	if right.resource == "namespaces" {
		attributes["name"] = namespace
	}
	review := map[string]any{"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": map[string]any{"resourceAttributes": attributes}}
	var answer struct{ Status struct{ Allowed bool } }
	err := k.call(ctx, http.MethodPost, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review, &answer)
	return answer.Status.Allowed, err
}
