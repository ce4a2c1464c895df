package contract

import (
	"slices"
	"strings"
)

// currencies are the codes of ISO 4217's list one that have a minor unit, funds
// codes among them: a price counts minor units, so what has none (metals, drawing
// rights, XTS, XXX) is no price. Nor is what was withdrawn.
//
// From the list of SIX Group, the maintenance agency, as of amendment 180 of 1
// January 2026. The tables of golang.org/x/text are of 2017.
var currencies = strings.Fields(`
	AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF CHW CLF
	CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF
	IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT
	MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF SAR SBD
	SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS UAH UGX USD USN UYI UYU UYW UZS
	VED VES VND VUV WST XAD XAF XCD XCG XOF XPF YER ZAR ZMW ZWG`)

// currency takes the codes that a price may be in.
func currency(value string) string {
	if _, known := slices.BinarySearch(currencies, value); !known {
		return "must be a code of ISO 4217 that is in use and has a minor unit, like EUR"
	}
	return ""
}
