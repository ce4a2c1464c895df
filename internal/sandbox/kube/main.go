// Command kubeapiserver is Kubernetes' own API server, for tests. It is a separate
// module because of its thousand dependencies. scripts/setup --kubernetes builds it
// into the user's cache folder.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() { os.Exit(cli.Run(app.NewAPIServerCommand())) }
