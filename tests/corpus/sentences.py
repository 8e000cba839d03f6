# ruff: noqa: E501
"""What the corpus is made of: sentences around values, forms of values, and texts that only look alike. Data."""

FIRST = ("Anna", "john", "Maria", "Wei", "Łukasz", "Jürgen", "Olu", "Priya", "sam", "Zoë", "Hugo", "Ines")
LAST = ("smith", "Müller", "kowalski", "okafor", "garcia", "chen", "O'Neil", "dupont", "rossi", "jansen")
HOSTS = (
    "example.com", "mail.example.co.uk", "corp.example.org", "example.museum", "münchen-verein.de", "例子.广告",
    "xn--bcher-kva.example", "sub.domain.example.io", "example-shop.fr", "EXAMPLE.COM", "uni.example.edu.au",
)  # fmt: skip
EMAIL = (
    "Write to {value} and they will help.", "Mail: {value}", "<{value}>", "Contact ({value}), please.",
    "mailto:{value}?subject=hi", "Schreib an {value}!", "Mon adresse est {value}.", '{{"email": "{value}"}}',
    "From: Someone <{value}>\nTo: you", "请发邮件到 {value} 谢谢", "user={value}&x=1", "- {value}\n- other",
    "пишите на {value}, ответим", "| name | {value} |", "**{value}**", "Send it to {value}; cc nobody",
)  # fmt: skip
PHONE = (
    "Call {value} today.", "Tel: {value}", "My number is {value}, thanks.", "Phone ({value})", "Ruf mich an: {value}.",
    "You can reach us at {value} or by post.", '{{"phone": "{value}"}}', "Appelez le {value} svp",
    "Fax: {value}\nWeb: none", "WhatsApp {value}!", "电话：{value}", "telefone: {value};", "- mobile: {value}",
)  # fmt: skip
PHONE_FORMS = (
    "+1~N##~N##~####", "+1-N##-N##-####", "+1 (N##) N##-####", "+1N##N######", "(N##) N##-####", "N##-N##-####",
    "N##.N##.####", "+44 20 7### ####", "+44~7911~######", "020 7946 0###", "07911 12####", "+49 30 90####", "+49 (0)30 90182#",
    "030/901820##"[:-2], "+33~6~12~34~56~##", "06 12 34 56 ##", "01.42.68.53.##", "+34 612 34 5# ##", "+39 06 698 ####",
    "+39 347 12# ####", "+31 6 1234567#", "+55 11 98765-43##", "(11) 98765-43##", "+48 512 345 ###", "+91 98765 432##",
    "+91-98765-432##", "+81 3-1234-56##", "+86 138 0013 80##", "+61 412 345 6##", "+41 44 668 18 ##", "+46 70 123 45 ##",
    "0049 30 90182####"[:-2], "+353 1 679 ####", "+7 495 123-45-##", "+971 50 123 45##", "+1 800 N##-####",
)  # fmt: skip
PHONE_NAMED = (
    "call me at {value}", "my cell is {value}, ok?", "phone number: {value}", "Telefon {value}", "mobile={value}",
    "tel. {value}", "Text me on my mobile {value} later", "mi teléfono es {value}", "WhatsApp: {value}",
)  # fmt: skip
PHONE_BARE = (
    "N##N######",
    "1N##N######",
    "0171#######",
    "0612345###",
    "98765432##",
    "512345###",
    "11987654###",
    "0301234567",
)
IBAN = (
    "Please pay to {value} by Friday.", "IBAN: {value}", "IBAN {value}, BIC unknown", "Konto {value}.", '{{"iban": "{value}"}}',
    "Mein Konto: {value}\nDanke", "virement sur {value} merci", "({value})", "Überweisung an {value}!",
)  # fmt: skip
CARD = (
    "My card is {value}, exp 12/27.", "Card number: {value}", "pay with {value} please", "{value}", "Visa {value} cvv hidden",
    '{{"card": "{value}"}}', "Karte {value}.", "the number {value} was charged twice", "tarjeta {value} caducada",
)  # fmt: skip
ID = (
    "My {name} is {value}.", "{name}: {value}", "{name} {value}", "The {name} on file is {value}, please check.",
    "{name} = {value}\n", "He gave his {name} ({value}) at the desk.",
)  # fmt: skip
BOTH = (
    "Write to {first} or call {second}.", "{first} / {second}", "Contact: {first}, {second}", "tel {second}, mail {first}!",
)  # fmt: skip

SECRETS = (
    ("aws", "AKIA<u16>"), ("aws-sts", "ASIA<u16>"), ("gcp", "AIza<s35>"), ("github", "ghp_<w36>"), ("github-o", "gho_<w36>"),
    ("github-pat", "github_pat_<w22>_<w59>"), ("gitlab", "glpat-<s20>"), ("slack", "xoxb-<d12>-<d12>-<w24>"),
    ("slack-app", "xapp-1-A<u10>-<d13>-<h64>"), ("stripe", "sk_live_<w24>"), ("stripe-long", "sk_live_<w99>"),
    ("stripe-r", "rk_test_<w24>"), ("openai", "sk-<w20>T3BlbkFJ<w20>"), ("openai-proj", "sk-proj-7<s60>A2<s60>"),
    ("anthropic", "sk-ant-api03-<s93>AA"), ("hf", "hf_<w34>"), ("npm", "npm_<w36>"), ("pypi", "pypi-AgEIcHlwaS5vcmc<s70>"),
    ("sendgrid", "SG.<s22>.<s43>"), ("twilio", "SK<h32>"), ("do", "dop_v1_<h64>"), ("databricks", "dapi<h32>"),
    ("telegram", "<d9>:AA<s33>"), ("jwt", "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI<w40>.<s43>"),
    ("jwt-long", "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ<w900>.<s342>"), ("azure", "<w3>8Q~<w34>"), ("shopify", "shpat_<h32>"),
    ("groq", "gsk_<w52>"), ("vault", "hvs.<w90>"), ("gcp-oauth", "ya29.<s100>"), ("google-client", "GOCSPX-<s28>"),
    ("age", "AGE-SECRET-KEY-1<u58>"), ("mailgun", "key-<h32>"), ("docker", "dckr_pat_<s27>"), ("bedrock", "ABSK<w120>="),
)  # fmt: skip
SECRET_TEMPLATES = (
    "Use {value} for now.", "key: {value}", 'const k = "{value}";', "export TOKEN={value}\n", "`{value}`", "({value})",
    '{{"k": "{value}"}}', "curl -H 'X-Key: {value}' https://api.example.com/", "My key is {value}, keep it.",
)  # fmt: skip
ASSIGNED = (
    "password: {value}", 'password = "{value}"', "DB_PASSWORD={value}", "api_key: '{value}'", "apiKey = \"{value}\"",
    '{{"client_secret": "{value}"}}', "the password is {value} for now", "Authorization: Bearer {value}{value}1",
    "secret_key={value}", "postgres://app:{value}@db.example.com:5432/main", "token => '{value}'", "access-token: {value}",
    "Passwort: {value}", "pwd={value};", "SECRET: `{value}`", "- passphrase: {value}",
)  # fmt: skip

PLAIN = (
    "The quick brown fox jumps over the lazy dog.", "Python 3.11.7 and Node 20.10.0 are installed; pip 23.2.1 too.",
    "Released on 2024-03-15 at 10:30:00, patched 15.04.2024, again on 03/15/2024.", "Pi is 3.14159265358979 and e 2.718281828459045.",
    "The UUID is 550e8400-e29b-41d4-a716-446655440000.", "sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "commit 3b18e512dba79e4c8300dd08aeb37f8e728b8dad fixes #12345678", "ISBN 978-3-16-148410-0 and ISBN-10 0-306-40615-2.",
    "Run `git clone git@github.com:owner/repo.git` first.", "import numpy as np\nx = np.zeros((1024, 2048))\nprint(x[0:10])",
    "npm install react@18.2.0 @types/node@20.1.0", "See RFC 2822, RFC 5322 and ISO 8601-1:2019.", "icon@2x.png and logo@3x.png",
    "Prices: 1,234.56 EUR, 12.345,67 €, $1,000,000.00; +15 % or -3.5 points.", "The population is 8,045,311,447 people.",
    "Der Umsatz stieg 2023 um 12,5 % auf 1.234.567 Euro.", "Il y a 1 234 567 habitants en 2024.", "坐标 39.9042, 116.4074，2024年3月15日。",
    "Coordinates: 52.520008, 13.404954; altitude 34 m.", "Version 10.0.19045.3803, build 20240315.1", "127.0.0.1:8080 and [::1]:443 listen.",
    "MAC 00:1A:2B:3C:4D:5E, port 65535, pid 123456.", "1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597",
    "def f(token, password=None):\n    return token or password", "password: str = Field(min_length=8)", "The password is required and must be long.",
    "token = get_token()\nsecret = os.environ['SECRET']", "api_key = \"YOUR_API_KEY_HERE\"", "API_KEY=<your-api-key>", "password: ********",
    "Use sk-learn-contrib-some-long-package-name with care.", "The key-value store keeps keys; tokens are counted per minute.",
    "-----BEGIN PRIVATE KEY----- is how such a file starts.", "-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIEAgAAuTANBg\n-----END CERTIFICATE-----",
    "A JWT has three parts: header.payload.signature, in base64url.", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8 user@host",
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk", "Write `user@` and then the host name.",
    "@media (min-width: 640px) {{ .a {{ width: 50%; }} }}", "Follow @someone and @someone_else on the site.", "x@y is not an address",
    "Схема: 1) 2) 3) и так далее, версия 2.0.", "مرحبا، الإصدار 3.2.1 صدر في 2024.", "आज 15 मार्च 2024 है और तापमान 32 है।",
    "Section 4.1.2.3 of the standard, pages 123-456, figure 7-8.", "Score 21-15, 21-19; sets 2:0 in 45 minutes 30 seconds.",
    "DIN EN ISO 9001:2015, IEC 60529 IP67, M8x1.25x40.", "Flight LH 1234 on 12 March, seat 23A, gate B42.", "EAN 4006381333931, GTIN 00012345600012.",
    "Model RTX 4090 24GB, 16384 cores, 2520 MHz.", "timestamp 1710498600 and 1710498600123 in ms", "0x7ffee4b8d9a0 and 0xdeadbeefcafebabe",
    "SELECT * FROM t WHERE id = 1234567890;", "range(1000000000, 2000000000)", "2^64 = 18446744073709551616", "9007199254740993 is not exact.",
    "https://example.com/a/b?id=123456789&page=2#top", "s3://bucket/2024/03/15/part-00000-c000.snappy.parquet", "10.1000/xyz123 is a DOI.",
    "arn:aws:iam::123456789012:role/example", "Der Text hat 12 345 678 Zeichen und 1 234 567 Wörter.", "GET /v1/items/1234567 HTTP/1.1 200 5123",
    "Chapter 1 2 3 4 5 6 7 8 9 10 11 12 of the book.", "Temperature: 20 21 22 23 24 25 26 27 28 29 30", "12:30:45.123456 elapsed 00:00:12",
    "the secret is to keep it simple and honest", "Our token economy rewards contributors.", "credentials: see the wiki page", "secret: none",
    "Bearer of good news arrived at noon yesterday evening.", "basic authentication mechanisms explained", "https://user@example.com/path",
    "The Steuer-ID has 11 digits; the BSN has 9, the PESEL 11.", "SSN stands for social security number.", "IBAN is short for international bank account number.",
)  # fmt: skip
LOOKALIKES = (
    "Order number ###-###-#### shipped.", "Invoice 2024-######## is due.", "Ticket #######", "Tracking: 1Z<u16>",
    "order id 1########", "SKU ####-####-##", "part no. ###-##-##", "serial: <u4>-<u4>-<u4>-<u4>", "ref 20240315######",
    "build 2024.3.##.####", "<h40>", "<h64>", "id=<h8>-<h4>-4<h3>-a<h3>-<h12>", "v#.##.###-rc.#", "ISBN 978-0-##-######-#",
    "lot ##########", "case no. ##########", "page ###-###", "version ##.##.##.##", "#.###.###,## EUR", "$###,###.##",
    "#### #### ####"[:9] + " steps", "ETag: \"<h32>\"", "request id req_<a8>", "job s######## finished in ##### ms",
    "Bestellnummer ### ### ####", "Rechnung Nr. ##########", "factura ###-###-####", "account ########", "item ###.###.####",
)  # fmt: skip
