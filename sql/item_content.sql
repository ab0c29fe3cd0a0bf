-- What tonight's items are, by the catalogue: one row per item of tonight, or candidate of its pairs, that stands in it.
-- Never published.
--
-- content: at most three sentences of the description, in its order: the first, which tells what the item is, and the two
-- that say most of the others by the item's words in them. attributes: categories, then what has a label; a price is
-- rounded, so that a few cents change no prompt, and a year that the title names is left out. What the labels are called
-- is said by the job: $people_label and so on.
with tonight as (
    select t.item_id, t.categories, i.title, i.people, i.brand, i.release_year, i.price, i.attributes
    from item_taste as t
    join item as i on i.item_id = t.item_id
    where t.is_active or t.is_candidate
),
sentence as (
    select
        t.item_id,
        t.place,
        t.sentence,
        -- The first stands before all others.
        case when t.place = 1 then 1e9
            else cast(sum(coalesce(w.weight, 0)) as double) / sqrt(cast(character_length(t.sentence) as double) + 40.0)
        end as score
    from item_word as w
    right join (
        select item_id, place, sentence, unnest(array_append(words, cast(null as varchar))) as word
        from item_text
        where user_id is null
    ) as t on w.item_id = t.item_id and w.word = t.word
    group by t.item_id, t.place, t.sentence
),
told as (
    select item_id, array_agg(sentence order by place) as content
    from (
        select
            item_id,
            place,
            sentence,
            row_number() over (partition by item_id order by score desc, place) as rank
        from sentence
    )
    where rank <= 3
    group by item_id
),
labelled as (
    select
        item_id,
        make_array(
            concat(cast($people_label as varchar), ': ', array_to_string(array_slice(clean_text(cast(people as varchar[]), 40), 1, 3), ', ')),
            concat(cast($brand_label as varchar), ': ', clean_text(cast(brand as varchar), 40)),
            case when release_year > 0 and coalesce(strpos(title, cast(release_year as varchar)), 0) = 0
                then concat(cast($year_label as varchar), ': ', cast(release_year as varchar)) end,
            case
                when price >= 1e9 then null
                when price >= 100 then concat(
                    cast($price_label as varchar), ': ', cast(cast(round(price / 10) * 10 as bigint) as varchar))
                when price >= 10 then concat(
                    cast($price_label as varchar), ': ', cast(cast(round(price) as bigint) as varchar))
                when price >= 0.05 then concat(
                    cast($price_label as varchar), ': ',
                    replace(
                        cast(round(cast(price as double) * 10) / 10 as varchar), '.', cast($decimal_mark as varchar)))
            end) as facts
    from tonight
)
select
    cast(t.item_id as varchar) as item_id,
    coalesce(s.content, cast(make_array() as varchar[])) as content,
    array_concat(
        t.categories,
        clean_text(cast(coalesce(t.attributes, cast(make_array() as varchar[])) as varchar[]), 80),
        array_except(
            l.facts,
            make_array(
                cast(null as varchar),
                concat(cast($people_label as varchar), ': '),
                concat(cast($brand_label as varchar), ': ')))) as attributes
from tonight as t
join labelled as l on l.item_id = t.item_id
left join told as s on s.item_id = t.item_id
order by item_id
