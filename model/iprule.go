package model

import (
	"fmt"
	"net/netip"
	"strings"
)

// MaxIPRules bounds the rules of one route: each request is held against all.
const MaxIPRules = 500

// ParseIPRule reads a rule and brings its value into its one form: an address
// (RFC 5952), a masked network, a country in capitals. The error is for people.
func ParseIPRule(typ, value string) (IPRule, error) {
	value = strings.TrimSpace(value)
	switch typ {
	case RuleIP:
		a, err := netip.ParseAddr(value)
		if err != nil || a.Zone() != "" {
			return IPRule{}, fmt.Errorf("%s must be an IP address", typ)
		}
		return IPRule{typ, a.Unmap().String()}, nil
	case RuleCIDR:
		p, err := netip.ParsePrefix(value)
		if err != nil || p.Addr().Is4In6() {
			return IPRule{}, fmt.Errorf("%s must be a network such as 185.10.20.0/24", typ)
		}
		return IPRule{typ, p.Masked().String()}, nil
	case RuleCountry:
		value = strings.ToUpper(value)
		if !isCountry(value) {
			return IPRule{}, fmt.Errorf("%s must be a code of two letters such as DE (ISO 3166-1)", typ)
		}
		return IPRule{typ, value}, nil
	}
	return IPRule{}, fmt.Errorf("type must be %s, %s or %s", RuleIP, RuleCIDR, RuleCountry)
}

// countries are the officially assigned codes of ISO 3166-1 alpha-2, and XK, which
// databases of addresses use for Kosovo. A rule for another one would be a typing
// error that matches nobody.
const countries = "AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS BT BV BW BY BZ " +
	"CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE EG EH ER ES ET FI FJ FK FM FO FR " +
	"GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP " +
	"KE KG KH KI KM KN KP KR KW KY KZ LA LB LC LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ " +
	"NA NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW " +
	"SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO TR TT TV TW TZ " +
	"UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS XK YE YT ZA ZM ZW"

func isCountry(code string) bool {
	return len(code) == 2 && !strings.Contains(code, " ") && strings.Contains(" "+countries+" ", " "+code+" ")
}
