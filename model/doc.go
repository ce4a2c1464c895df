// Package model specifies how a SKU's seller is replaced, and checks the specification
// with Spin, in every order in which its steps can happen.
//
// takeover.pml is the path of an order while sellers are replaced: claims, fenced
// writes, forwarded orders. lock.pml is the queue for the lock in etcd. The tests
// need spin and gcc, which scripts/setup --spin installs:
//
//	go test ./model -v
//
// docs/model.md says what is checked, and shows what breaks without each rule.
package model
