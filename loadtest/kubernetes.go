package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"flashsale/internal/sandbox"
	"flashsale/loadtest/pods"
	"flashsale/loadtest/report"
)

type kubernetesCmd struct {
	apiFlag
	Check bool `help:"Only check whether this machine can run a node, before the programs for it are built: its kernel, and your rights."`
	Keep  bool `help:"Leave the node running at the end, and print how to use it and how to stop it."`
	seedFlag
	outFlag `embed:"" set:"file=kubernetes.json"`
}

// kubernetesFile has the result.
const kubernetesFile = "kubernetes.json"

// Help is shown by --help.
func (*kubernetesCmd) Help() string {
	return `The node is a real Kubernetes of one machine: API server, controllers, scheduler, kubelet, containerd, kube-proxy and DNS, in namespaces of their own. deploy/kubernetes/demo is applied to it as it is, but for the images and the storage class: three servers each of MySQL, etcd and ZooKeeper, and three replicas. Orders come through the Service. Under each of the strategies etcd, zookeeper, kubernetes and kubernetes-stocklock one SKU is sold out. Under etcd and zookeeper, further sales run while the service is updated or a pod is deleted. Each answer is compared with its order in MySQL. After each sale buyers order last units at once, as in loadtest attack: without enough contended bursts the verdict is not-challenged.

It needs root, and the programs that scripts/setup --kubernetes builds. The exit status is 2 if this machine cannot run a node, and 1 if something is not proven.`
}

// Run sells on Kubernetes.
func (c *kubernetesCmd) Run(ctx context.Context, s streams) error {
	if c.Check {
		if err := sandbox.CheckMachine(ctx); err != nil {
			return fmt.Errorf("%w: %w", pods.ErrNoNode, err)
		}
		return nil
	}
	if err := c.find(); err != nil {
		return err
	}
	c.pick()
	cfg := pods.Config{API: c.API, Seed: c.Seed, Say: func(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }}
	if c.Keep {
		cfg.Keep = func(n *sandbox.Node) error { return keepNode(s, n) }
	}
	result, err := pods.Run(ctx, cfg)
	if result != nil {
		err = errors.Join(err, report.SaveJSON(filepath.Join(c.Out, kubernetesFile), result, 0o644))
	}
	if err != nil {
		return err
	}
	if err := result.Write(s.out); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "Written: %s\n", filepath.Join(c.Out, kubernetesFile))
	if !result.OK {
		return errNotProven
	}
	return nil
}

func keepNode(s streams, n *sandbox.Node) error {
	stop, err := n.Keep()
	if err != nil {
		return err
	}
	_, err = io.WriteString(s.out, keptNode(n.KubectlCommand(), stop))
	return err
}

// keptNode says how to use a node and how to stop it. kubectl is the node's own: there is
// often none on PATH, and only this one is in the node's network.
func keptNode(kubectl []string, stop string) string {
	return fmt.Sprintf("\nThe node keeps running. Its network is its own:\n\n  %s get pods -n flashsale\n\nStop it: %s\n", strings.Join(kubectl, " "), stop)
}
