// Package etcdstock keeps stock in etcd and changes it by compare-and-swap, with
// no lock. It knows SKUs, units and who took how many; prices, limits and orders
// are left to others. What it guarantees is about etcd alone: units are conserved,
// and each take counts once.
//
// # Keys
//
//	prefix/stock/<sku>          {"units", "available"}
//	prefix/taken/<sku>/<order>  the units that this order has taken
//	prefix/restocked/<sku>/<n>  the units that this restock has added
//
// Every change is one transaction on both,
//
//	If ModRevision(stock) = as read
//	Then Put(stock), Put(taken) or Delete(taken)
//	Else Get(stock), Get(taken)
//
// so that it is refused when another came first; its answer holds what to try
// again with. (An order's key never changes without the stock's: one compare
// covers both.) A change of the same SKU is a rival, hence the retries: they are
// bounded, with a pause that grows, and counted. Every change names its order,
// and the order's key says whether it was made: one whose answer was lost can be
// sent again, and counts once. (It is for the order's caller to use one name for
// one order.)
//
// # Two stores, and the gap
//
// An order's row is in MySQL, and no transaction spans both. In this order,
//
//	Take(order)            units leave etcd
//	INSERT order; COMMIT   the row that sells them
//	  - or, refused:       GiveBack(order)
//
// a crash between the two leaves units that were taken and not sold: never too
// many sold, but some left unsold. The other order would oversell instead. Taken
// lists what was taken, by order: those with no row in MySQL, and nobody at work
// on them, are the gap. An auditor finds it by that comparison; whoever mends it
// must first make sure that the row cannot come any more (its COMMIT may still be
// on its way), and then gives the units back, which counts once, too. The same
// holds of a cancelled order whose GiveBack was not reached.
//
// A strategy that needs no such care keeps stock and orders in one store.
package etcdstock
