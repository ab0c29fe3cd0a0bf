-- Every different attribute (category) of the catalogue, in the form in which prompts show it; in no order.
-- Reads item. Parameter: $title_chars, the longest text in characters.
select distinct category
from (
    select unnest(clean_text(cast(categories as varchar[]), cast($title_chars as bigint))) as category
    from item
)
where category is not null
