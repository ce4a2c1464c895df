// Package kubernetes is the manifests in this folder, for programs that apply
// them to a cluster of their own.
package kubernetes

import "embed"

// StockLock defines the custom resource that the strategy kubernetes-stocklock
// locks by.
//
//go:embed locks/stocklock.yaml
var StockLock string

// Manifests are the folder demo, and those that it is made of.
//
//go:embed demo etcd locks mysql service zookeeper
var Manifests embed.FS
