// Command kube is Kubernetes itself, for tests: the programs of its control plane and
// its nodes, and kubectl, in one file, as they share most of their code. Which of them
// runs is the name of the file (a link) or the first argument. It is a separate module
// because of its thousand dependencies. scripts/setup --kubernetes builds it into the
// user's cache folder.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	_ "time/tzdata" // the time zones of CronJobs

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

var programs = map[string]func() *cobra.Command{
	"kube-apiserver":          apiserver.NewAPIServerCommand,
	"kube-controller-manager": controllers.NewControllerManagerCommand,
	"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"kube-proxy":              proxy.NewProxyCommand,
	"kubelet":                 func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
	"kubectl":                 cmd.NewDefaultKubectlCommand,
}

func main() {
	name := filepath.Base(os.Args[0])
	if programs[name] == nil && len(os.Args) > 1 {
		// kubectl reads os.Args itself, and so must find its own.
		os.Args = os.Args[1:]
		name = os.Args[0]
	}
	command := programs[name]
	switch {
	case command == nil:
		fmt.Fprintln(os.Stderr, "usage: kube kube-apiserver|kube-controller-manager|kube-scheduler|kube-proxy|kubelet|kubectl [arguments]")
		os.Exit(2)
	case name == "kubectl": // it prints an error in its own words, and exits
		util.CheckErr(cli.RunNoErrOutput(command()))
	default:
		os.Exit(cli.Run(command()))
	}
}
