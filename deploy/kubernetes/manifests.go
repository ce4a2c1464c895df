// Package kubernetes is the manifests in this folder, for programs that apply
// them to a cluster of their own.
package kubernetes

import (
	"embed"
	"os"
	"path/filepath"
)

// StockLock defines the custom resource that the strategy kubernetes-stocklock
// locks by.
//
//go:embed locks/stocklock.yaml
var StockLock string

// Manifests are the folder demo, and those that it is made of.
//
//go:embed demo etcd locks mysql service zookeeper
var Manifests embed.FS

// overlay is all that differs on a sandbox.Node, which fetches no image.
const overlay = `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
images:
  - {name: flashsale/api, newName: flashsale.local/api, newTag: "1"}
  - {name: mysql, newName: flashsale.local/mysql, newTag: "1"}
  - {name: zookeeper, newName: flashsale.local/zookeeper, newTag: "1"}
  - {name: gcr.io/etcd-development/etcd, newName: flashsale.local/etcd, newTag: "1"}
patches:
  - target: {kind: StatefulSet}
    patch: |
      - {op: add, path: /spec/volumeClaimTemplates/0/spec/storageClassName, value: local}
resources:
  - `

// WriteOverlay makes a folder that kubectl can apply to a sandbox.Node: one of Manifests,
// but for the storage class and the images, which are flashsale.local/NAME:1 there.
func WriteOverlay(folder, name string) error {
	if err := os.CopyFS(folder, Manifests); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "kustomization.yaml"), []byte(overlay+name+"\n"), 0o600)
}
