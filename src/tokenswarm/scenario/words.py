"""Plain words, most of them one token each in the usual vocabularies."""

_TEXT = """
about above across after again against air all almost along also always among and animal answer
any arm around ask away back ball bank base bear beat because become bed before began begin behind
being below best better between big bird black blood blue board boat body bone book born both
bottom box boy bread break bring brother brown build burn business busy but buy call came camp can
car card care carry case cat catch cause cell center central chair chance change character chart
check chief child choose church circle city class clean clear climb clock close cloth cloud coast
coat cold collect color come common company compare complete condition consider contain continue
control cook cool copy corner correct cost cotton could count country course cover cow create crop
cross crowd cry current cut dance dark daughter day dead deal dear death decide deep degree depend
describe desert design develop differ dinner direct discuss distant divide doctor does dog dollar
door double down draw dream dress drink drive drop dry during each early earth east easy eat edge
effect egg eight either electric element else end energy engine enough enter equal even evening
event ever every exact example except excite exercise expect experience eye face fact fair fall
family famous far farm fast father favor fear feel feet fell few field fight figure fill final
find fine finger finish fire first fish fit five flat floor flow flower fly follow food foot force
foreign forest form forward found four free fresh friend front fruit full game garden gas gather
general gentle girl give glass gold good govern grand grass gray great green ground group grow
guess guide hand happen happy hard hat have head hear heart heat heavy held help here high hill
history hold hole home hope horse hot hour house huge human hundred hunt ice idea imagine inch
include indicate industry insect instant instrument interest invent iron island job join joy jump
just keep key kind king know lady lake land language large last late laugh law lay lead learn
least leave left leg length less let letter level lie life lift light like line liquid list listen
little live locate long look lost loud love low machine made magnet main major make man many map
mark market mass master match material matter mean measure meat meet melody men metal method
middle might mile milk million mind mine minute miss mix modern moment money month moon more
morning most mother motion mountain mouth move much music must name nation natural nature near
necessary neck need neighbor never new next night nine noise noon nor north nose note nothing
notice noun now number object observe ocean
"""

WORDS = tuple(_TEXT.split())
