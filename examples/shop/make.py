"""Makes the small shop that the examples read: products.csv and events.csv, the same bytes every time.

    python3 examples/shop/make.py [FOLDER]     # default: the folder of this file

Everything here was written for curec: there is no such shop. Thirty customers have one or two favourite categories, buy most of
what they take from these, look at the rest, and send some of that back. Column names are a shop's own.
"""

import csv
import datetime
import random
import sys
from pathlib import Path

# sku, name, category, brand, price, description
PRODUCTS = [
    ("T-101", "Harbour Breakfast", "Tea", "Northleaf", "6.90",
     "A strong black tea from Assam and Ceylon. It takes milk well and keeps its malt taste when it steeps too long."),
    ("T-102", "Slow Jasmine", "Tea", "Northleaf", "9.50",
     "Green tea that lay among jasmine blossoms for three nights. Flowery and light, and bitter when the water boils."),
    ("T-103", "Smoke House", "Tea", "Old Kiln", "8.20",
     "Black tea dried over pine wood fires. It smells of camp fires and divides every table."),
    ("T-104", "Orchard Rooibos", "Tea", "Northleaf", "5.80",
     "Rooibos with dried apple and pear. Without caffeine, so children drink it in the evening."),
    ("T-105", "Stone Matcha", "Tea", "Old Kiln", "18.00",
     "Finely ground green tea for whisking. Bright green, grassy, and good in cakes as well."),
    ("C-201", "Night Shift", "Coffee", "Third Crane", "11.00",
     "A dark roast from Sumatra and Brazil. Heavy, with bitter chocolate and almost no acid, made for espresso."),
    ("C-202", "Lemon Hill", "Coffee", "Third Crane", "13.50",
     "A light roast from Ethiopia. It tastes of lemon and tea and wants a paper filter."),
    ("C-203", "Quiet Decaf", "Coffee", "Bay Roasters", "12.00",
     "Decaffeinated with water alone. Caramel and nuts, and nobody notices what is missing."),
    ("C-204", "Hand Mill No. 3", "Coffee", "Bay Roasters", "49.00",
     "A hand mill with steel burrs and forty steps. It grinds two cups in a minute and fits into a rucksack."),
    ("C-205", "Moka Six", "Coffee", "Bay Roasters", "34.00",
     "An aluminium stove pot for six small cups. Strong coffee in five minutes on gas or a camp stove."),
    ("K-301", "Cast Iron Pan", "Kitchen", "Hearth", "39.00",
     "A heavy pan that holds its heat for steaks and cornbread. It needs oil and patience and lasts for decades."),
    ("K-302", "Bread Knife", "Kitchen", "Hearth", "24.00",
     "Long teeth that cut hard crusts without tearing. The handle is plum wood."),
    ("K-303", "Proofing Basket", "Kitchen", "Hearth", "14.00",
     "A rattan basket for sourdough loaves of a kilo. It leaves rings of flour on the crust."),
    ("K-304", "Mortar of Granite", "Kitchen", "Old Kiln", "29.00",
     "A rough granite mortar for curry pastes and pesto. It weighs five kilos and does not slide."),
    ("K-305", "Kitchen Scale", "Kitchen", "Plainworks", "19.00",
     "Weighs to the gram up to five kilos and runs on two small batteries. Flat enough for a drawer."),
    ("O-401", "Two Person Tent", "Outdoor", "Farfell", "189.00",
     "A tent for two of 1.9 kilos that stands in the wind. One person can pitch it in the rain without wetting the inside."),
    ("O-402", "Camp Stove", "Outdoor", "Farfell", "45.00",
     "A gas stove as small as a fist. It boils a litre in four minutes and folds into a mug."),
    ("O-403", "Wool Blanket", "Outdoor", "Plainworks", "69.00",
     "A blanket of grey wool that stays warm when it is damp. It smells of sheep at first."),
    ("O-404", "Head Lamp", "Outdoor", "Farfell", "32.00",
     "A lamp for the forehead with red light for reading maps. It lasts three nights on one charge."),
    ("O-405", "Rain Cape", "Outdoor", "Plainworks", "55.00",
     "A cape that covers a rucksack and knees. Loud in the wind, and dry after ten minutes."),
]
FIRST_DAY = datetime.datetime(2026, 3, 1)
DAYS, CUSTOMERS, VISITS = 14, 30, 9


def events():
    """(customer, sku, action, moment), by time."""
    draw = random.Random(20)
    categories = sorted({product[2] for product in PRODUCTS})
    rows = []
    for number in range(1, CUSTOMERS + 1):
        liked = draw.sample(categories, 1 + number % 2)
        for product in draw.sample(PRODUCTS, VISITS):
            moment = FIRST_DAY + datetime.timedelta(seconds=draw.randrange(DAYS * 86400))
            fits = product[2] in liked
            action = "purchase" if draw.random() < (0.85 if fits else 0.1) else "view"
            rows.append((f"c{number:02}", product[0], action, moment))
            if action == "purchase" and not fits:
                rows.append((f"c{number:02}", product[0], "return", moment + datetime.timedelta(hours=draw.randrange(20, 60))))
    last = FIRST_DAY + datetime.timedelta(days=DAYS)
    return sorted((row for row in rows if row[3] < last), key=lambda row: (row[3], row[:3]))


def write(path, header, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(header)
        out.writerows(rows)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent
    write(folder / "products.csv", ["sku", "name", "category", "brand", "price", "description"], PRODUCTS)
    write(folder / "events.csv", ["customer_id", "sku", "action", "ts"],
          [(customer, sku, action, f"{moment:%Y-%m-%d %H:%M:%S}") for customer, sku, action, moment in events()])
