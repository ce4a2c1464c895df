// Command kubeapiserver is Kubernetes' own API server, as Kubernetes builds it,
// for tests on a real one. It is a module of its own: it needs a thousand
// packages that nothing else here does. scripts/setup --kubernetes builds it into
// a cache outside of the tree.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() { os.Exit(cli.Run(app.NewAPIServerCommand())) }
