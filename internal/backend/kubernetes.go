package backend

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"flashsale/internal/lock"
	"flashsale/internal/lock/k8slock"
)

// checkKube finds a missing or a malformed address of the API server.
func (s *Servers) checkKube() error {
	switch {
	case s.KubeServer != "" && s.Kubeconfig != "":
		return errors.New("--kubeconfig and --kube-server name two API servers")
	case s.KubeServer != "":
		if u, err := url.Parse(s.KubeServer); err != nil || u.Host == "" {
			return fmt.Errorf("--kube-server: %q is no URL of a server", s.KubeServer)
		}
	case s.Kubeconfig == "" && os.Getenv("KUBERNETES_SERVICE_HOST") == "":
		return errors.New("--kubeconfig or --kube-server is missing: this is no pod of a cluster")
	}
	return nil
}

// kubeConfig is how the API server is reached. A token's file is read again as it
// changes.
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

// kubeAddress shows where the API server is.
func (s *Servers) kubeAddress() string {
	cfg, err := s.kubeConfig()
	if err != nil {
		return s.Kubeconfig
	}
	return cfg.Host
}

// kubeLocker is a lock whose tokens are counted in a namespace.
type kubeLocker interface {
	lock.Locker
	Source(context.Context) (string, error)
	// Ask asks for an object to be made, and leaves it at that.
	Ask(context.Context) error
}

// inKubernetes opens a lock in the API server. Its objects carry no database's
// name: databases need a namespace each.
func inKubernetes[L kubeLocker](newLocker func(k8slock.Config) (L, error)) func(context.Context, *Config) (*Backend, error) {
	return func(ctx context.Context, cfg *Config) (*Backend, error) {
		at, err := cfg.Servers.kubeConfig()
		if err != nil {
			return nil, err
		}
		host, _ := os.Hostname() // only shown to people
		locker, err := newLocker(k8slock.Config{
			REST: at, Namespace: cfg.Servers.KubeNamespace, TTL: cfg.TTL, Logger: cfg.Logger,
			Owner: k8slock.Owner{Replica: cfg.Replica, Host: host, PID: os.Getpid()},
		})
		if err != nil {
			return nil, err
		}
		uid, err := locker.Source(ctx)
		if err != nil {
			return nil, closing(err, func() error { return locker.Close(ctx) })
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
